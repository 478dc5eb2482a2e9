// The page around the merges: the demo, damaged files, cancelling, what cannot be written, and
// being offline.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
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
  await page.waitForSelector('[data-testid="demo"]');
  session.messages.length = 0;
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
  const wrong = session.messages.filter((m) => /^(error|pageerror)|panicked/.test(m));
  assert.deepEqual(wrong, []);
});

const at = (name) => join(dir, name);

function pair(size = '16M') {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), size);
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 4M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 2 2M 4M');
}

test('the demo chain is made and committed without any file', async () => {
  await page.click('[data-testid="demo"]');
  const names = ['RootBase', 'Snap-1', 'Snap-2', 'Snap-3', 'Snap-4'].map((n) => `${n}.qcow2`);
  await h.waitForChain(page, Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? ''])));
  assert.ok(Object.values(await h.nodes(page)).every((n) => n.state === 'ok'));
  await h.choose(page, 'commit', { top: names[3], base: names[0] });
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  const drawn = await h.nodes(page);
  assert.deepEqual(drawn[names[4]], { backing: names[0], state: 'ok' });
  assert.equal(drawn[names[1]].state, 'invalid');
  assert.equal(drawn[names[2]].state, 'invalid');
  assert.equal(drawn[names[3]].state, 'invalid');

  // The files are real ones: qemu-img finds them sound.
  for (const name of [names[0], names[4]]) {
    await page.click(`[data-name="${name}"]`);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid="save-copy"]')]);
    await download.saveAs(at(name));
    h.check(at(name));
  }
  assert.equal(h.backingOf(at(names[4])), names[0]);
  const holds = (mib, byte) => h.qemuIo(at(names[4]), 'qcow2', `read -P ${byte} ${mib}M 1M`);
  assert.doesNotMatch(['10 81', '121 82', '33 65', '9 49', '4 33', '66 0', '1 17']
    .map((pair) => holds(...pair.split(' '))).join('\n'), /Pattern verification failed/);

  // And once more from the start.
  await page.click('[data-testid="demo"]');
  await h.waitForChain(page, Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? ''])));
});

test('states are told apart', async () => {
  pair();
  const make = (name, ...more) => h.qemuImg('create', '-q', '-f', 'qcow2', ...more, at(name), '16M');
  make('orphan.qcow2', '-u', '-b', 'gone.qcow2', '-F', 'qcow2');
  make('one.qcow2', '-u', '-b', 'two.qcow2', '-F', 'qcow2');
  make('two.qcow2', '-u', '-b', 'one.qcow2', '-F', 'qcow2');
  make('labelled.qcow2', '-u', '-b', 'base2.qcow2', '-F', 'raw');
  make('base2.qcow2');
  make('header.qcow2');
  make('cut.qcow2');
  const bytes = await readFile(at('header.qcow2'));
  bytes.writeUInt32BE(60, 20); // Clusters of 2^60 bytes.
  await writeFile(at('header.qcow2'), bytes);
  h.qemuIo(at('cut.qcow2'), 'qcow2', 'write -P 3 0 1M');
  await truncate(at('cut.qcow2'), 200_000); // The L1 table is still there; what it names is not.
  await writeFile(at('noise.qcow2'), Buffer.alloc(300_000, 'noise'));
  const names = ['base', 'top', 'orphan', 'one', 'two', 'labelled', 'base2', 'header', 'cut', 'noise'];
  await h.drop(page, names.map((n) => at(`${n}.qcow2`)));
  await page.waitForFunction(
    () => document.querySelector('[data-name="cut.qcow2"]')?.dataset.state === 'damaged',
  );
  const drawn = await h.nodes(page);
  const states = Object.fromEntries(names.map((n) => [n, drawn[`${n}.qcow2`].state]));
  assert.deepEqual(states, {
    base: 'ok', top: 'ok', orphan: 'missing', one: 'loop', two: 'loop',
    labelled: 'wrong-label', base2: 'ok', header: 'damaged', cut: 'damaged', noise: 'damaged',
  });
  assert.equal(drawn['orphan.qcow2'].backing, 'gone.qcow2');
  await page.click('[data-name="header.qcow2"]');
  assert.match(await page.innerText('[data-testid="details"]'), /cluster/i);
});

test('a damaged layer is refused with the reason, and nothing is written', async () => {
  pair();
  const bytes = await readFile(at('top.qcow2'));
  const l1 = Number(bytes.readBigUInt64BE(40));
  bytes.writeBigUInt64BE(0x8000_00ff_0000_0000n, l1); // An L2 table far past the end.
  await writeFile(at('top.qcow2'), bytes);
  const before = ['base.qcow2', 'top.qcow2'].map((n) => h.sha256(at(n)));
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.qcow2' });
  const result = await h.run(page);
  assert.equal(result.status, 'failed');
  assert.match(result.text, /top\.qcow2/);
  assert.match(result.text, /as they were/);
  assert.deepEqual(['base.qcow2', 'top.qcow2'].map((n) => h.sha256(at(n))), before);
});

test('a cancelled run leaves every file as it was', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), '2G');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('mid.qcow2'));
  h.qemuIo(at('mid.qcow2'), 'qcow2', 'write -P 5 0 500M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', at('top.qcow2'));
  const names = ['base.qcow2', 'mid.qcow2', 'top.qcow2'];
  const before = names.map((n) => h.sha256(at(n)));
  await h.drop(page, names.map(at));
  await h.waitForChain(page, { 'base.qcow2': '', 'mid.qcow2': 'base.qcow2', 'top.qcow2': 'mid.qcow2' });
  await h.choose(page, 'commit', { top: 'mid.qcow2', base: 'base.qcow2' });
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  await page.click('[data-testid="run"]');
  await page.waitForSelector('[data-testid="progress"]');
  await page.click('[data-testid="cancel"]');
  const result = await h.result(page);
  assert.equal(result.status, 'cancelled', result.text);
  assert.deepEqual(names.map((n) => h.sha256(at(n))), before);
  assert.ok(Object.values(await h.nodes(page)).every((n) => n.state === 'ok'));
});

test('a file that changed meanwhile is not written', async () => {
  pair();
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.qcow2' });
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 9 8M 1M');
  const before = h.sha256(at('base.qcow2'));
  await page.click('[data-testid="run"]');
  const result = await h.result(page);
  assert.equal(result.status, 'failed');
  assert.match(result.text, /changed/);
  assert.equal(h.sha256(at('base.qcow2')), before);
});

test('without handles the result is saved as a new file', async () => {
  pair();
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before'));
  const before = ['base.qcow2', 'top.qcow2'].map((n) => h.sha256(at(n)));
  await page.setInputFiles('[data-testid="file-input"]', [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await h.choose(page, 'pull', { top: 'top.qcow2', base: '' });
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid="save"]')]);
  assert.equal(download.suggestedFilename(), 'top.qcow2');
  await download.saveAs(at('saved.qcow2'));
  h.check(at('saved.qcow2'));
  assert.equal(h.backingOf(at('saved.qcow2')), '');
  h.same(at('saved.qcow2'), 'qcow2', at('before'));
  assert.deepEqual(['base.qcow2', 'top.qcow2'].map((n) => h.sha256(at(n))), before);
});

test('a large sparse target is rewritten with its holes', async () => {
  h.qemuImg('create', '-q', '-f', 'raw', at('base.img'), '600M');
  h.qemuIo(at('base.img'), 'raw', 'write -P 1 100M 2M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.img', '-F', 'raw', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 2 500M 2M', 'write -z 100M 64k');
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before'));
  await h.drop(page, [at('base.img'), at('top.qcow2')]);
  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.img' });
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  assert.match(await page.innerText('[data-testid="preview"]'), /holes kept/);
  assert.equal((await h.run(page)).status, 'done');
  h.same(at('base.img'), 'raw', at('before'));
  assert.ok(h.diskSize(at('base.img')) < 64 << 20, 'holes were filled');
});

test('operations are reached by keyboard alone', async () => {
  pair();
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await page.focus('[data-name="base.qcow2"]');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('Enter');
  await page.waitForSelector('[data-name="top.qcow2"][aria-selected="true"]');
  await page.keyboard.press('p');
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  assert.equal(await page.inputValue('[data-testid="top"]'), 'top.qcow2');
  await page.keyboard.press('Escape');
  await page.waitForSelector('[data-testid="operation"]', { state: 'detached' });
});

test('once loaded, it works without a network', async () => {
  await page.waitForFunction(async () => (await navigator.serviceWorker.ready).active?.state === 'activated');
  await session.context.setOffline(true);
  try {
    await page.reload();
    await page.click('[data-testid="demo"]');
    await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  } finally {
    await session.context.setOffline(false);
  }
});

test('nothing is asked of any other host', async () => {
  const hosts = new Set();
  page.on('request', (r) => hosts.add(new URL(r.url()).origin));
  await page.reload();
  await page.click('[data-testid="demo"]');
  await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  const own = new URL(session.site.url).origin;
  assert.deepEqual([...hosts].filter((o) => o !== own && o !== 'null' && !o.startsWith('blob')), []);
});

test('a phone shows the chain from top to bottom without scrolling sideways', async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  try {
    await page.click('[data-testid="demo"]');
    await page.waitForSelector('[data-name="Snap-4.qcow2"]');
    await h.choose(page, 'commit');
    await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `the page is ${wide} pixels wide`);
    const tops = await page.$$eval('[data-testid="node"]', (all) =>
      all.map((n) => n.getBoundingClientRect()).map((r) => [r.top, r.left, r.right]));
    assert.ok(tops.every(([, left, right]) => left >= 0 && right <= 390));
    assert.equal(new Set(tops.map(([top]) => top)).size, 5);
  } finally {
    await page.setViewportSize({ width: 1280, height: 860 });
  }
});

test('where writing is not permitted, the originals stay and the result can be saved', async () => {
  const denied = await h.start({ write: 2 });
  try {
    pair();
    const before = h.sha256(at('top.qcow2'));
    await h.drop(denied.page, [at('base.qcow2'), at('top.qcow2')]);
    await h.choose(denied.page, 'pull', { top: 'top.qcow2', base: '' });
    const result = await h.run(denied.page);
    assert.equal(result.status, 'done', result.text);
    assert.match(result.text, /unchanged/);
    await denied.page.waitForSelector('[data-testid="save"]');
    assert.equal(h.sha256(at('top.qcow2')), before);
  } finally {
    await denied.close();
  }
});

test('the base is kept when the top is chosen after it', async () => {
  await page.click('[data-testid="demo"]');
  await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  await page.click('[data-testid="op-commit"]');
  await page.selectOption('[data-testid="base"]', 'RootBase.qcow2');
  await page.selectOption('[data-testid="top"]', 'Snap-2.qcow2');
  assert.equal(await page.inputValue('[data-testid="base"]'), 'RootBase.qcow2');
});

test('dragging a layer onto another proposes an operation', async () => {
  await page.click('[data-testid="demo"]');
  await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  await page.dragAndDrop('[data-name="Snap-3.qcow2"]', '[data-name="Snap-1.qcow2"]');
  await page.waitForSelector('[data-testid="operation"][aria-label="Commit"]');
  assert.equal(await page.inputValue('[data-testid="top"]'), 'Snap-3.qcow2');
  assert.equal(await page.inputValue('[data-testid="base"]'), 'Snap-1.qcow2');
});

test('a chain of a hundred layers is drawn and shortened', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('l0.qcow2'), '8M');
  for (let i = 1; i < 100; i += 1) {
    h.qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', `l${i - 1}.qcow2`, '-F', 'qcow2', at(`l${i}.qcow2`), '8M');
  }
  h.qemuIo(at('l50.qcow2'), 'qcow2', 'write -P 5 1M 1M');
  await h.drop(page, Array.from({ length: 100 }, (_, i) => at(`l${i}.qcow2`)));
  await page.waitForFunction(() => document.querySelector('[data-testid="tree-summary"]')?.textContent.startsWith('100 layers'));
  await h.choose(page, 'pull', { top: 'l99.qcow2', base: 'l0.qcow2' });
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  assert.equal(h.backingOf(at('l99.qcow2')), 'l0.qcow2');
  h.check(at('l99.qcow2'));
});

test('files dropped on any other page are opened, too', async () => {
  await page.evaluate(() => { location.hash = '#/settings'; });
  await page.waitForSelector('[data-testid="theme-dark"]');
  h.qemuImg('create', '-q', '-f', 'qcow2', at('elsewhere.qcow2'), '1M');
  await h.drop(page, at('elsewhere.qcow2'));
  await page.waitForSelector('[data-testid="node"][data-name="elsewhere.qcow2"]');
});

test('a worker that fails is reported on the page and in the console', async () => {
  const broken = await h.start({ serviceWorkers: 'block' });
  try {
    await broken.page.route('**/worker_loader.js', (route) =>
      route.fulfill({ contentType: 'text/javascript', body: 'throw new Error("out of order")' }));
    await broken.page.reload();
    await broken.page.waitForSelector('[data-testid="crash"]:not([hidden])');
    assert.match(await broken.page.innerText('[data-testid="crash"]'), /out of order/);
    await broken.page.waitForTimeout(50);
    assert.ok(broken.messages.some((m) => m.includes('out of order')), broken.messages.join('\n'));
  } finally {
    await broken.close();
  }
});
