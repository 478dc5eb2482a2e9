// Long work never blocks the page: the longest task of its thread during a commit and a search.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { join } from 'node:path';
import * as h from './harness.mjs';

let session;
let page;
const at = (name) => join(session.dir, name);

before(async () => {
  session = await h.start();
  page = session.page;
  await page.evaluate(() => {
    window.longTasks = [];
    new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((e) => e.duration)))
      .observe({ entryTypes: ['longtask'] });
  });
});
after(() => session.close());

/** Prints the longest task since the last time; 0 when none took over 50 ms. */
async function tell(what) {
  const tasks = await page.evaluate(() => window.longTasks.splice(0));
  console.log(`figure: ${what}: longest task on the page ${Math.round(Math.max(0, ...tasks))} ms (goal 100 ms)`);
}

test('a commit of 300 MiB and a search through them leave the page free', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), '1G');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 100M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 2 50M 300M');
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before.raw'));
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await tell('opening two files');

  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.qcow2' });
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  await tell('a commit of 300 MiB');
  h.check(at('base.qcow2'));
  h.same(at('base.qcow2'), 'qcow2', at('before.raw'));

  await page.click('[data-name="base.qcow2"]');
  await page.click('[data-testid="lens-bytes"]');
  await page.waitForSelector('[data-testid="hex"]');
  await page.fill('[data-testid="needle"]', 'words that are nowhere');
  await page.click('[data-testid="find"]');
  await page.waitForFunction(() => /Not found/.test(document.querySelector('[data-testid="bytes-at"]').textContent), null, { timeout: 120_000 });
  await tell('a search through 350 MiB');
});
