// Firefox: what a browser without file handles can do, which is to look at everything and to
// save results as new files. Real files of the local disk, judged by qemu-img.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as f from './firefox.mjs';
import * as h from './harness.mjs';

let session;
let page;
let dir;

before(async () => {
  session = await f.start();
  page = session.page;
});
after(() => session?.close());
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'backchain-images-'));
  await page.goto(session.site.url);
  await page.waitForSelector('[data-testid="demo"]');
  session.messages.length = 0;
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
  const wrong = session.messages.filter((m) => /^(error|pageerror)|panicked/.test(m));
  assert.deepEqual(wrong, []);
});

const at = (name) => join(dir, name);
const text = (selector) => page.$eval(selector, (e) => e.innerText);

/** base <- mid <- top: data, hidden data and zeros. */
function chain() {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), '16M');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 4M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('mid.qcow2'));
  h.qemuIo(at('mid.qcow2'), 'qcow2', 'write -P 2 2M 4M', 'write -z 1M 1M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 3 5M 64k');
}

const LINKS = { 'base.qcow2': '', 'mid.qcow2': 'base.qcow2', 'top.qcow2': 'mid.qcow2' };

async function drawn(expected) {
  await page.waitForFunction(
    (wanted) => {
      const nodes = [...document.querySelectorAll('[data-testid="node"]')];
      return nodes.length === Object.keys(wanted).length
        && nodes.every((n) => wanted[n.dataset.name] === n.dataset.backing && n.dataset.state === 'ok');
    },
    {},
    expected,
  );
}

async function open() {
  await f.give(page, Object.keys(LINKS).map(at));
  await drawn(LINKS);
}

async function lens(name) {
  await page.click(`[data-testid="lens-${name}"]`);
  await page.waitForSelector(`[data-testid="look-${name}"]`);
}

async function plan(op, { top, base }) {
  await page.click(`[data-testid="op-${op}"]`);
  if (top !== undefined) await page.select('[data-testid="top"]', top);
  if (base !== undefined) await page.select('[data-testid="base"]', base);
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
}

async function run() {
  await page.click('[data-testid="run"]');
  const result = await page.waitForSelector('[data-testid="result"]', { timeout: 60_000 });
  assert.equal(await result.evaluate((e) => e.dataset.status), 'done', await result.evaluate((e) => e.innerText));
}

test('a chain is drawn, and a layer tells what it holds', async () => {
  chain();
  await open();
  await page.click('[data-name="mid.qcow2"]');
  await page.waitForFunction(() => /16 MiB/.test(document.querySelector('[data-testid="details"]')?.innerText ?? ''));
  assert.match(await text('[data-testid="details"]'), /base\.qcow2/);
});

test('map, file on disk, bytes and search work', async () => {
  chain();
  await open();
  await lens('map');
  await page.waitForSelector('[data-testid="map-canvas"][data-ready="true"]');
  await page.click('[data-testid="look-map"] summary');
  const rows = Object.fromEntries(await page.$$eval('[data-testid="map-table"] tbody tr', (all) =>
    all.map((row) => [row.querySelector('th').textContent, [...row.querySelectorAll('td')].map((d) => d.textContent)])));
  assert.deepEqual(rows['mid.qcow2'].slice(0, 3), ['3.9 MiB', '0 B', '1 MiB']);
  await lens('disk');
  await page.waitForSelector('[data-testid="disk-canvas"][data-ready="true"]');
  assert.match(await text('[data-testid="disk-totals"]'), /data: /);
  await lens('bytes');
  await page.select('[data-testid="space"]', 'guest');
  await page.type('[data-testid="needle"]', '0x03');
  await page.click('[data-testid="find"]');
  await page.waitForSelector(`[data-testid="hex"][data-start="${5 << 20}"]`);
});

test('the results of a commit are saved as new files', async () => {
  chain();
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before'));
  const sums = Object.keys(LINKS).map((n) => h.sha256(at(n)));
  await open();
  await plan('commit', { top: 'mid.qcow2', base: 'base.qcow2' });
  assert.match(await text('[data-testid="preview"]'), /offered to be saved/);
  await run();
  await mkdir(at('saved'));
  const names = await page.$$eval('[data-testid="save"]', (all) => all.map((b) => b.dataset.name));
  assert.deepEqual(names.sort(), ['base.qcow2', 'top.qcow2']);
  for (const name of names) {
    await page.click(`[data-testid="save"][data-name="${name}"]`);
    await f.downloaded(session, name, at(`saved/${name}`));
    h.check(at(`saved/${name}`));
  }
  // The two belong together: the chain is one layer shorter and reads as before.
  assert.equal(h.backingOf(at('saved/top.qcow2')), 'base.qcow2');
  h.same(at('saved/top.qcow2'), 'qcow2', at('before'));
  assert.deepEqual(Object.keys(LINKS).map((n) => h.sha256(at(n))), sums);
});

test('changes that build on each other are staged and saved together', async () => {
  chain();
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before'));
  const sums = Object.keys(LINKS).map((n) => h.sha256(at(n)));
  await open();
  const steps = [['commit', { top: 'mid.qcow2', base: 'base.qcow2' }], ['pull', { top: 'top.qcow2', base: '' }]];
  for (const [nth, [op, layers]] of steps.entries()) {
    await plan(op, layers);
    await page.click('[data-testid="try"]');
    await page.waitForFunction((n) => document.querySelectorAll('[data-testid="staged-change"]').length === n, {}, nth + 1);
  }
  await page.click('[data-testid="apply"]');
  await page.waitForSelector('[data-testid="result"][data-status="done"]', { timeout: 60_000 });
  await mkdir(at('saved'));
  const names = await page.$$eval('[data-testid="save"]', (all) => all.map((b) => b.dataset.name));
  assert.deepEqual(names.sort(), ['base.qcow2', 'top.qcow2']);
  for (const name of names) {
    await page.click(`[data-testid="save"][data-name="${name}"]`);
    await f.downloaded(session, name, at(`saved/${name}`));
    h.check(at(`saved/${name}`));
  }
  assert.equal(h.backingOf(at('saved/top.qcow2')), '');
  h.same(at('saved/top.qcow2'), 'qcow2', at('before'));
  assert.deepEqual(Object.keys(LINKS).map((n) => h.sha256(at(n))), sums);
  await page.click('[data-testid="discard"]');
  await drawn(LINKS);
});

test('the demo chain lives in the browser and is written in place', async () => {
  await page.click('[data-testid="demo"]');
  const names = ['RootBase', 'Snap-1', 'Snap-2', 'Snap-3', 'Snap-4'].map((n) => `${n}.qcow2`);
  await drawn(Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? ''])));
  await plan('commit', { top: names[3], base: names[0] });
  await run();
  for (const name of [names[0], names[4]]) {
    await page.click(`[data-name="${name}"]`);
    await page.waitForFunction((wanted) => document.querySelector('[data-testid="details"]')?.innerText.includes(wanted), {}, name);
    await page.click('[data-testid="save-copy"]');
    await f.downloaded(session, name, at(name));
  }
  h.check(at(names[4]));
  assert.equal(h.backingOf(at(names[4])), names[0]);
  assert.doesNotMatch(
    [[10, 81], [33, 65], [9, 49], [4, 33], [66, 0], [1, 17]]
      .map(([mib, byte]) => h.qemuIo(at(names[4]), 'qcow2', `read -P ${byte} ${mib}M 1M`)).join('\n'),
    /Pattern verification failed/,
  );
});

test('a lesson of the course is done, its worker killed on the way, and shown as slides', async () => {
  const is = (id, more = '') => page.waitForSelector(`[data-testid="${id}"]${more}`);
  const press = async (id) => page.click(`.step--now [data-testid="${id}"]`);
  await page.evaluate(() => { location.hash = '#/learn/killed-half-way'; });
  await is('workplace', '[data-ready="true"]');
  await press('continue');
  await press('by-itself');
  await is('lesson', '[data-done="2"]');
  await is('workplace', '[data-ready="true"]');
  await is('peek', '[data-known="true"]');
  await drawn({ 'RootBase.qcow2': '', 'Snap-1.qcow2': 'RootBase.qcow2', 'Active.qcow2': 'Snap-1.qcow2' });
  assert.doesNotMatch(await text('[data-testid="peek"]'), /cannot be read|[1-9] error/);
  await page.click('.step--now [data-testid="answer"][data-right="true"]');
  await press('check');
  await is('lesson', '[data-done="3"]');
  await press('show-me');
  await is('preview', '[data-ready="true"]');
  await page.click('[data-testid="run"]');
  await is('lesson-done');
  await page.evaluate(() => { location.hash = '#/talk/blockcommit-s1/3'; });
  await is('slide-done', '[data-reached="true"]');
});
