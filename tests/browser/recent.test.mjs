// Files opened before: kept as handles, opened again with one click, forgotten when asked to.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as h from './harness.mjs';

let session;
let page;
let dir;

before(async () => {
  session = await h.start();
  page = session.page;
});
after(() => session?.close());
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'backchain-images-'));
  await page.goto(session.site.url);
  await page.evaluate(() => new Promise((resolve) => {
    localStorage.clear();
    const request = indexedDB.deleteDatabase('backchain');
    request.onsuccess = resolve;
    request.onerror = resolve;
  }));
  await page.reload();
  await page.waitForSelector('[data-testid="demo"]');
  session.messages.length = 0;
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
  const wrong = session.messages.filter((m) => /^(error|pageerror)|panicked/.test(m));
  assert.deepEqual(wrong, []);
});

const at = (name) => join(dir, name);

function pair(folder = '') {
  const base = join(dir, folder, 'base.qcow2');
  const top = join(dir, folder, 'top.qcow2');
  h.qemuImg('create', '-q', '-f', 'qcow2', base, '16M');
  h.qemuIo(base, 'qcow2', 'write -P 1 0 4M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', top);
  return [base, top];
}

const PAIR = { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' };

async function rows() {
  await page.waitForSelector('[data-testid="recent"]');
  return page.$$eval('[data-testid="recent-row"]', (all) => all.map((row) => row.innerText.replace(/\s+/g, ' ')));
}

/** The number of entries kept, whatever the page shows. */
const kept = () => page.evaluate(() => new Promise((resolve, reject) => {
  const open = indexedDB.open('backchain');
  open.onerror = () => reject(open.error);
  open.onsuccess = () => {
    const database = open.result;
    if (!database.objectStoreNames.contains('recent')) { database.close(); resolve(0); return; }
    const count = database.transaction('recent').objectStore('recent').count();
    count.onsuccess = () => { database.close(); resolve(count.result); };
  };
}));

/** Waits until so many are kept: that goes on behind the chain that is drawn already. */
async function keeps(count) {
  for (const end = Date.now() + 10_000; (await kept()) !== count && Date.now() < end;) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.equal(await kept(), count);
}

test('what was opened is listed, and opens again with one click', async () => {
  await h.drop(page, pair());
  await h.waitForChain(page, PAIR);
  await keeps(1);
  await mkdir(at('vm'));
  pair('vm');
  await page.reload();
  await page.waitForSelector('[data-testid="recent"]');
  await h.drop(page, at('vm'));
  await h.waitForChain(page, PAIR);
  await keeps(2);

  await page.reload();
  const listed = await rows();
  assert.equal(listed.length, 2);
  assert.match(listed[0], /^vm folder .*\d/);
  assert.match(listed[1], /^base\.qcow2 and 1 more .*\d/);
  await page.click('[data-testid="recent-row"][data-name="base.qcow2"] [data-testid="recent-open"]');
  await h.waitForChain(page, PAIR);
  // It is the file itself: an operation writes it in place, once that is permitted.
  await h.choose(page, 'pull', { top: 'top.qcow2', base: '' });
  assert.equal((await h.run(page)).status, 'done');
  assert.equal(h.backingOf(at('top.qcow2')), '');
  h.check(at('top.qcow2'));
  // Opened last, listed first; and not twice.
  await page.reload();
  assert.deepEqual((await rows()).map((row) => row.split(' ')[0]), ['base.qcow2', 'vm']);
});

test('one is forgotten, or all are', async () => {
  const [base, top] = pair();
  for (const [nth, file] of [base, top].entries()) {
    await h.drop(page, file);
    await page.waitForSelector('[data-testid="node"]');
    await keeps(nth + 1);
    await page.reload();
    await page.waitForSelector('[data-testid="recent"]');
  }
  assert.equal((await rows()).length, 2);
  await page.click('[data-name="top.qcow2"] [data-testid="recent-forget"]');
  await page.waitForFunction(() => document.querySelectorAll('[data-testid="recent-row"]').length === 1);
  assert.equal(await kept(), 1);
  await page.click('[data-testid="recent-clear"]');
  await page.waitForSelector('[data-testid="recent"]', { state: 'detached' });
  assert.equal(await kept(), 0);
});

test('with the setting off, nothing is stored', async () => {
  const files = pair();
  await h.drop(page, files);
  await h.waitForChain(page, PAIR);
  await page.waitForFunction(() => new Promise((resolve) => {
    const open = indexedDB.open('backchain');
    open.onsuccess = () => { const is = open.result.objectStoreNames.contains('recent'); open.result.close(); resolve(is); };
  }));
  await page.goto(`${session.site.url}#/settings`);
  await page.uncheck('[data-testid="remember"]');
  // Off forgets at once what was kept.
  await page.waitForFunction(() => !localStorage.getItem('remember') || localStorage.getItem('remember') === 'no');
  for (let wait = 0; wait < 50 && (await kept()) > 0; wait += 1) await page.waitForTimeout(50);
  assert.equal(await kept(), 0);
  await page.goto(`${session.site.url}#/`);
  await page.reload();
  await page.waitForSelector('[data-testid="demo"]');
  await h.drop(page, files);
  await h.waitForChain(page, PAIR);
  assert.equal(await kept(), 0);
  await page.reload();
  await page.waitForSelector('[data-testid="demo"]');
  assert.equal(await page.$('[data-testid="recent"]'), null);
});

test('a file that is gone says so', async () => {
  const [base] = pair();
  await h.drop(page, base);
  await page.waitForSelector('[data-testid="node"]');
  await page.reload();
  await rows();
  await rename(base, at('elsewhere.qcow2'));
  await page.click('[data-testid="recent-open"]');
  await page.waitForSelector('[data-testid="problem"]');
  assert.match(await page.innerText('[data-testid="problem"]'), /base\.qcow2 cannot be read/);
});
