// Settings: each does what it says, at once and after a reload, and stays in this browser.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import * as h from './harness.mjs';

let session;
let page;

before(async () => {
  session = await h.start({ colorScheme: 'light' });
  page = session.page;
});
after(() => session?.close());
beforeEach(async () => {
  await page.goto(session.site.url);
  await page.evaluate(() => localStorage.clear());
  await page.goto(`${session.site.url}#/settings`);
  await page.reload();
  await page.waitForSelector('[data-testid="theme-dark"]');
  session.messages.length = 0;
});
afterEach(() => {
  assert.deepEqual(session.messages.filter((m) => /^(error|pageerror)|panicked/.test(m)), []);
});

const dark = () => page.evaluate(() => document.documentElement.classList.contains('pf-v6-theme-dark'));

test('the theme is the system\'s until one is chosen', async () => {
  assert.equal(await dark(), false);
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.waitForFunction(() => document.documentElement.classList.contains('pf-v6-theme-dark'));
  await page.check('[data-testid="theme-light"]');
  assert.equal(await dark(), false);
  await page.reload();
  await page.waitForSelector('[data-testid="theme-light"]:checked');
  assert.equal(await dark(), false);
  await page.check('[data-testid="theme-system"]');
  assert.equal(await dark(), true);
  await page.emulateMedia({ colorScheme: 'light' });
});

test('sizes are shown in the chosen units, those the engine words included', async () => {
  const shown = async () => {
    await page.click('[data-testid="nav-files"]');
    if (!(await page.$('[data-name="RootBase.qcow2"]'))) {
      await page.click('[data-testid="demo"]');
      await page.waitForSelector('[data-name="RootBase.qcow2"]');
      await page.click('[data-name="RootBase.qcow2"]');
    }
    const node = await page.innerText('[data-name="RootBase.qcow2"]');
    await page.waitForFunction(() => /virtual size/i.test(document.querySelector('[data-testid="details"]')?.innerText ?? ''));
    const details = await page.innerText('[data-testid="details"]');
    await page.click('[data-testid="nav-settings"]');
    return `${node}\n${details}`.replaceAll('\u202f', ' ');
  };
  let text = await shown();
  assert.match(text, /of 256 MiB/);
  await page.check('[data-testid="units-decimal"]');
  text = await shown();
  assert.match(text, /of 268 MB/);
  assert.doesNotMatch(text, /MiB/);
  await page.check('[data-testid="units-exact"]');
  text = await shown();
  assert.match(text, /of 268 435 456 B/);
  assert.doesNotMatch(text, /\d [MK]i?B/);
  await page.reload();
  await page.waitForSelector('[data-testid="units-exact"]:checked');
});

test('the start page is shown where the address says nothing', async () => {
  await page.check('[data-testid="start-learn"]');
  await page.goto('about:blank');
  await page.goto(session.site.url);
  await page.waitForFunction(() => document.title.startsWith('Learn'));
  // An address says more than a setting.
  await page.goto('about:blank');
  await page.goto(`${session.site.url}#/`);
  await page.waitForSelector('[data-testid="demo"]');
});

test('reduced motion holds without the system asking for it', async () => {
  const lasting = () => page.$eval('[data-testid="theme"]', (e) => getComputedStyle(e).transitionDuration);
  await page.check('[data-testid="motion-reduced"]');
  assert.equal(await page.evaluate(() => document.documentElement.dataset.motion), 'reduced');
  assert.match(await lasting(), /^0s/);
  await page.reload();
  await page.waitForSelector('[data-testid="motion-reduced"]:checked');
  assert.equal(await page.evaluate(() => document.documentElement.dataset.motion), 'reduced');
});

test('settings are stored in this browser only, and nothing else is', async () => {
  await page.check('[data-testid="theme-dark"]');
  assert.deepEqual(await page.evaluate(() => ({ ...localStorage })), {
    theme: 'dark', units: 'binary', start: 'files', motion: 'system', remember: 'yes',
  });
});
