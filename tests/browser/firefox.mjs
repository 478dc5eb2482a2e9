// Debian's Firefox, driven over WebDriver BiDi. It has no file handles, so files come in through
// the `<input>` and results leave as downloads.
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import puppeteer from 'puppeteer-core';
import { serve } from './harness.mjs';

export const FIREFOX = process.env.BACKCHAIN_FIREFOX ?? '/usr/bin/firefox-esr';

/** A scratch directory, Firefox with a profile of its own, and a page. */
export async function start() {
  if (!existsSync(FIREFOX)) throw new Error(`${FIREFOX} is missing: install firefox-esr`);
  const dir = await mkdtemp(join(tmpdir(), 'backchain-firefox-'));
  const downloads = join(dir, 'downloads');
  await mkdir(downloads);
  const site = process.env.BACKCHAIN_URL ? { url: process.env.BACKCHAIN_URL, close: async () => {} } : await serve();
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: FIREFOX,
    headless: true,
    userDataDir: join(dir, 'profile'),
    extraPrefsFirefox: {
      'browser.download.folderList': 2,
      'browser.download.dir': downloads,
      'browser.download.useDownloadDir': true,
      'browser.download.always_ask_before_handling_new_types': false,
      'browser.helperApps.neverAsk.saveToDisk': 'application/octet-stream',
      // Nothing of the browser's own on the network.
      'network.captive-portal-service.enabled': false,
      'network.connectivity-service.enabled': false,
      'datareporting.policy.dataSubmissionEnabled': false,
    },
  });
  const page = await browser.newPage();
  await page.setViewport({ width: 1280, height: 860 });
  page.setDefaultTimeout(30_000);
  const messages = [];
  page.on('console', (m) => messages.push(`${m.type()}: ${m.text()}`));
  page.on('pageerror', (e) => messages.push(`pageerror: ${e.message}`));
  await page.goto(site.url);
  await page.waitForSelector('[data-testid="demo"]');
  return {
    page, browser, dir, downloads, messages, site,
    async close() {
      await browser.close();
      await site.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** Chooses files in the page's file input. */
export async function give(page, paths, input = 'file-input') {
  const element = await page.$(`[data-testid="${input}"]`);
  await element.uploadFile(...[paths].flat());
}

/** Waits until a download has arrived whole, and moves it to `to`. */
export async function downloaded(session, name, to, timeout = 20_000) {
  const until = Date.now() + timeout;
  for (;;) {
    const names = await readdir(session.downloads);
    if (names.includes(name) && !names.some((n) => n.endsWith('.part'))) {
      await rename(join(session.downloads, name), to);
      return;
    }
    if (Date.now() > until) throw new Error(`${name} was not saved; there is ${names.join(', ') || 'nothing'}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}
