// The first visit: how much is loaded, and how soon the page answers.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { DIST, FLAGS, serve } from './harness.mjs';

/** Bytes over the wire for all that a first visit loads, fonts included. */
const BUDGET = 1_000_000;

/** One visit with a browser that has never been here. */
async function visit(serviceWorkers) {
  const site = await serve();
  const browser = await chromium.launch({
    executablePath: process.env.BACKCHAIN_CHROMIUM ?? '/usr/bin/chromium',
    args: FLAGS,
  });
  try {
    const page = await (await browser.newContext({ serviceWorkers })).newPage();
    await page.goto(site.url);
    await page.waitForSelector('[data-testid="demo"]');
    // The frame after the first one with buttons: a click is answered from now on.
    const interactive = await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => done(performance.now()))));
    const painted = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0);
    await page.waitForLoadState('networkidle');
    if (serviceWorkers === 'allow') {
      await page.evaluate(async () => (await navigator.serviceWorker.ready).active.state);
    }
    const bytes = site.sent.reduce((sum, { bytes }) => sum + bytes, 0);
    return { bytes, interactive, painted, files: site.sent.length };
  } finally {
    await browser.close();
    await site.close();
  }
}

test('a first visit loads at most 1 MB and is interactive at once', async () => {
  const page = await visit('block');
  const all = await visit('allow');
  console.log(`figure: first visit: ${page.files} files, ${page.bytes} bytes over the wire (limit ${BUDGET})`);
  console.log(`figure: first visit with the copy for offline use: ${all.files} requests, ${all.bytes} bytes`);
  console.log(`figure: first visit: painted after ${Math.round(page.painted)} ms, interactive after ${Math.round(page.interactive)} ms (goal: 1000 ms on 4 idle cores)`);
  assert.ok(page.painted <= page.interactive);
  // A build for development is neither optimised nor compressed.
  if (existsSync(join(DIST, 'index.html.br'))) assert.ok(page.bytes <= BUDGET, `${page.bytes} bytes`);
});
