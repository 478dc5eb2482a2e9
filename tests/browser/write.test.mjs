// How files are written: links that were pointed out, tabs that do not get in each other's way,
// changes from outside, room that runs out.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdtemp, rm } from 'node:fs/promises';
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

/** A second engine beside the page's own, and the handles of what is dropped. */
async function engine(in_page = page) {
  await in_page.evaluate(() => new Promise((resolve) => {
    window.dropped = [];
    window.addEventListener('drop', (event) => {
      for (const item of event.dataTransfer.items) window.dropped.push(item.getAsFileSystemHandle());
    }, true);
    const worker = new Worker('./worker_loader.js', { type: 'module' });
    window.heard = [];
    window.engine = worker;
    worker.onmessage = ({ data }) => { window.heard.push(data); if (data === 'Ready') resolve(); };
  }));
}

/** Sends a request; waits for an answer of one of these kinds. Numbers arrive as they are. */
function ask(request, kinds, in_page = page) {
  return in_page.evaluate(async ([text, kinds]) => {
    const handles = await Promise.all(window.dropped);
    const request = JSON.parse(text, (_, value) => (value?.$ === undefined ? value : handles.find((h) => h.name === value.$)));
    const from = window.heard.length;
    window.engine.postMessage(request);
    for (;;) {
      const answers = window.heard.slice(from);
      const problem = answers.find((e) => e?.Problem !== undefined);
      if (problem && !kinds.includes('Problem')) throw new Error(problem.Problem);
      const answer = answers.find((e) => kinds.some((kind) => e?.[kind] !== undefined));
      if (answer) return JSON.parse(JSON.stringify(answer, (_, v) => (typeof v === 'bigint' ? Number(v) : v)));
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }, [JSON.stringify(request), kinds]);
}

const granted = (...names) => names.map((name, gift) => ({ gift: 100 + gift, path: name, access: { Handle: { $: name } } }));
const layers = (tree) => Object.fromEntries(tree.Tree.layers.map((l) => [l.name, l]));

test('a missing backing file is located by name, by size and format, and recorded by a relink', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), '32M');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 8M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 2 4M 8M');
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before'));
  h.qemuImg('convert', '-O', 'qcow2', at('base.qcow2'), at('moved.qcow2'));
  h.qemuImg('create', '-q', '-f', 'qcow2', at('small.qcow2'), '8M');
  h.qemuImg('create', '-q', '-f', 'raw', at('other.img'), '32M');
  await engine();
  await h.drop(page, ['top.qcow2', 'moved.qcow2', 'small.qcow2', 'other.img'].map(at));
  let tree = layers(await ask({ Open: { granted: granted('top.qcow2', 'small.qcow2', 'other.img') } }, ['Tree']));
  const top = tree['top.qcow2'].id;
  assert.equal(tree['top.qcow2'].state, 'Missing');

  // Nothing here fits by name, or by size and format: both are only suggested.
  const { Suggestions } = (await ask({ Locate: { Suggest: { layer: top } } }, ['Located'])).Located;
  assert.deepEqual(Suggestions.wanted, { name: 'base.qcow2', format: 'qcow2', virtual_size: 32 << 20 });
  assert.deepEqual(Suggestions.suggestions.map((s) => [s.name, s.fit]), [
    ['other.img', { name: false, size: true, format: false }],
    ['small.qcow2', { name: false, size: false, format: true }],
  ]);
  // The right one is known by its size and format.
  const { Linked } = (await ask(
    { Locate: { Give: { layer: top, granted: granted('small.qcow2', 'other.img', 'moved.qcow2') } } }, ['Located'])).Located;
  assert.deepEqual([Linked.file.name, Linked.file.fit], ['moved.qcow2', { name: false, size: true, format: true }]);
  tree = layers(await ask({ Open: { granted: [] } }, ['Tree']));
  assert.equal(tree['top.qcow2'].backing, tree['moved.qcow2'].id);
  assert.deepEqual([tree['top.qcow2'].state, tree['top.qcow2'].located], ['Ok', true]);
  assert.equal(h.backingOf(at('top.qcow2')), 'base.qcow2');

  const operation = { kind: 'Rebase', top, base: tree['moved.qcow2'].id, force: false, entries: [['Unsafe', 'on']] };
  const { Outcome } = await ask({ Run: { operation, read_only: [], prove: false } }, ['Outcome']);
  assert.equal(Outcome.status, 'Done', Outcome.message);
  assert.equal(h.backingOf(at('top.qcow2')), 'moved.qcow2');
  h.same(at('top.qcow2'), 'qcow2', at('before'));
  tree = layers(await ask({ Open: { granted: [] } }, ['Tree']));
  assert.deepEqual([tree['top.qcow2'].state, tree['top.qcow2'].located], ['Ok', false]);
});

test('what is located cannot be a loop, and can be forgotten', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('found.qcow2'), '8M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', '/gone/base.qcow2', '-F', 'qcow2', at('mid.qcow2'), '8M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', 'mid.qcow2', '-F', 'qcow2', at('top.qcow2'), '8M');
  await engine();
  const names = ['found.qcow2', 'mid.qcow2', 'top.qcow2'];
  await h.drop(page, names.map(at));
  const tree = layers(await ask({ Open: { granted: granted(...names) } }, ['Tree']));
  const layer = tree['mid.qcow2'].id;
  for (const [file, why] of [['top.qcow2', /stands on mid/], ['mid.qcow2', /its own/]]) {
    const { Failed } = (await ask({ Locate: { Take: { layer, file: tree[file].id } } }, ['Located'])).Located;
    assert.match(Failed.why, why);
  }
  const { Linked } = (await ask({ Locate: { Take: { layer, file: tree['found.qcow2'].id } } }, ['Located'])).Located;
  assert.equal(Linked.file.name, 'found.qcow2');
  await ask({ Locate: { Forget: { layer } } }, ['Located']);
  assert.equal(layers(await ask({ Open: { granted: [] } }, ['Tree']))['mid.qcow2'].state, 'Missing');
});

test('two tabs do not take each other\'s files in the browser\'s own storage away', async () => {
  const folders = () => page.evaluate(async () => {
    const names = [];
    for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name);
    return names.length;
  });
  const commit = async (tab, top) => {
    await h.choose(tab, 'commit', { top, base: 'RootBase.qcow2' });
    const result = await h.run(tab);
    assert.equal(result.status, 'done', result.text);
  };
  await page.click('[data-testid="demo"]');
  await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  const other = await session.context.newPage();
  await other.goto(session.site.url);
  await other.click('[data-testid="demo"]');
  await other.waitForSelector('[data-name="Snap-4.qcow2"]');
  assert.equal(await folders(), 2);
  await commit(page, 'Snap-1.qcow2');
  await commit(other, 'Snap-3.qcow2');
  await commit(page, 'Snap-2.qcow2');
  await other.close();
  // The folder of a tab that is gone goes with the next start.
  await page.goto('about:blank');
  await page.goto(session.site.url);
  await page.click('[data-testid="demo"]');
  await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  await assert.doesNotReject(page.waitForFunction(async () => {
    const names = [];
    for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name);
    return names.length === 1;
  }));
});

/** A chain of two: base with `mib` MiB of data (and holes up to `size`), top with a little. */
function pair({ mib = 4, size = '64M', format = 'qcow2' } = {}) {
  const base = format === 'raw' ? 'base.img' : 'base.qcow2';
  h.qemuImg('create', '-q', '-f', format, at(base), size);
  h.qemuIo(at(base), format, `write -P 1 0 ${mib}M`);
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', format, at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 2 2M 4M');
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before'));
  return base;
}

async function plan(op, choices, tab = page) {
  await h.choose(tab, op, choices);
  await tab.waitForSelector('[data-testid="preview"][data-ready="true"]');
  return tab.innerText('[data-testid="preview"]');
}

test('the way to write a file is chosen by what it costs, and said with its reason', async () => {
  // Full of data: the browser's own copy is the cheap way.
  pair({ mib: 100, size: '128M' });
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  assert.match(await plan('commit', { top: 'top.qcow2', base: 'base.qcow2' }),
    /Updated through its handle: the browser copies the file \(100 MiB\)[^]*Writing it anew would take longer/);
  // Of the same length, and mostly holes: only the data is written.
  await page.reload();
  pair({ mib: 10, size: '128M', format: 'raw' });
  await h.drop(page, [at('base.img'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.img': '', 'top.qcow2': 'base.img' });
  const words = await plan('commit', { top: 'top.qcow2', base: 'base.img' });
  assert.match(words, /Written anew[^]*holes kept[^]*Only 10 MiB of its 128 MiB hold data/);
  assert.match(words, /Needs 14\.?\d* MiB of free space/);
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  h.same(at('base.img'), 'raw', at('before'));
  assert.ok(h.diskSize(at('base.img')) < 32 << 20, 'holes were filled');
});

test('what a browser left half-written in a folder is recognised', async () => {
  const { mkdirSync, writeFileSync } = await import('node:fs');
  mkdirSync(at('images'));
  h.qemuImg('create', '-q', '-f', 'qcow2', at('images/base.qcow2'), '8M');
  writeFileSync(at('images/base.qcow2.crswap'), 'half');
  await h.drop(page, at('images'));
  await h.waitForChain(page, { 'base.qcow2': '' });
  assert.match(await page.innerText('[data-testid="ignored"]'),
    /base\.qcow2\.crswap: what a browser wrote of images\/base\.qcow2 before it was stopped/);
});

test('a file that changes while the run goes on is noticed before anything is in place', async () => {
  pair({ mib: 200, size: '1G' });
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 3 300M 300M');
  const before = h.sha256(at('base.qcow2'));
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await plan('commit', { top: 'top.qcow2', base: 'base.qcow2' });
  await page.click('[data-testid="run"]');
  await page.waitForFunction(() => /Writing/.test(document.querySelector('[data-testid="progress"]')?.textContent));
  // Long past what the fingerprint's first bytes tell: only the time of change does.
  const { utimesSync } = await import('node:fs');
  utimesSync(at('base.qcow2'), new Date(), new Date());
  const result = await h.result(page);
  assert.equal(result.status, 'failed', result.text);
  assert.match(result.text, /base\.qcow2 was changed by somebody else[^]*All files are as they were/);
  assert.equal(h.sha256(at('base.qcow2')), before);
});

test('two tabs do not write one file at the same time', async () => {
  pair({ mib: 300, size: '1G' });
  const names = ['base.qcow2', 'top.qcow2'];
  const before = h.sha256(at('top.qcow2'));
  const other = await session.context.newPage();
  await other.goto(session.site.url);
  for (const tab of [page, other]) {
    await tab.bringToFront();
    await h.drop(tab, names.map(at));
    await tab.waitForSelector('[data-name="top.qcow2"]');
    await plan('pull', { top: 'top.qcow2', base: '' }, tab);
  }
  await page.bringToFront();
  await page.click('[data-testid="run"]');
  await page.waitForFunction(() => /Writing/.test(document.querySelector('[data-testid="progress"]')?.textContent));
  const second = await h.run(other);
  assert.equal(second.status, 'failed', second.text);
  assert.match(second.text, /top\.qcow2 cannot be written: another tab or program is writing it/);
  const first = await h.result(page);
  assert.equal(first.status, 'done', first.text);
  assert.notEqual(h.sha256(at('top.qcow2')), before);
  h.check(at('top.qcow2'));
  h.same(at('top.qcow2'), 'qcow2', at('before'));
  await other.close();
});

test('a tab that is closed during a run asks first, and leaves the files as they were', async () => {
  pair({ mib: 300, size: '1G' });
  const before = h.sha256(at('top.qcow2'));
  const tab = await session.context.newPage();
  await tab.goto(session.site.url);
  const asked = [];
  let answer = 'dismiss';
  tab.on('dialog', async (dialog) => { asked.push(dialog.type()); await dialog[answer](); });
  await h.drop(tab, [at('base.qcow2'), at('top.qcow2')]);
  await tab.waitForSelector('[data-name="top.qcow2"]');
  await plan('pull', { top: 'top.qcow2', base: '' }, tab);
  await tab.click('[data-testid="run"]');
  await tab.waitForFunction(() => /Writing/.test(document.querySelector('[data-testid="progress"]')?.textContent));
  await tab.close({ runBeforeUnload: true });
  for (let i = 0; asked.length === 0 && i < 100; i += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(asked, ['beforeunload']);
  answer = 'accept';
  await tab.close({ runBeforeUnload: true });
  await tab.waitForEvent('close').catch(() => {});
  assert.equal(h.sha256(at('top.qcow2')), before);
});

test('where the browser\'s own storage has no room, it is said before anything is written', async () => {
  pair({ mib: 40 });
  const small = await h.start({ serviceWorkers: 'block' });
  try {
    await small.page.route('**/worker_loader.js', async (route) => {
      const loader = await (await route.fetch()).text();
      const body = `navigator.storage.estimate = async () => ({ quota: ${30 << 20}, usage: ${10 << 20} });\n${loader}`;
      await route.fulfill({ contentType: 'text/javascript', body });
    });
    await small.page.reload();
    await small.page.setInputFiles('[data-testid="file-input"]', [at('base.qcow2'), at('top.qcow2')]);
    await h.waitForChain(small.page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
    await plan('pull', { top: 'top.qcow2', base: '' }, small.page);
    const result = await h.run(small.page);
    assert.equal(result.status, 'failed');
    assert.match(result.text, /own storage has 20 MiB left for this page, and 4[\d.]+ MiB are needed/);
  } finally {
    await small.close();
  }
});

test('a browser that gives no more room on the way leaves everything as it was', async () => {
  pair({ mib: 40 });
  const before = ['base.qcow2', 'top.qcow2'].map((name) => h.sha256(at(name)));
  const cdp = await session.context.newCDPSession(page);
  const origin = new URL(session.site.url).origin;
  await page.setInputFiles('[data-testid="file-input"]', ['base.qcow2', 'top.qcow2'].map(at));
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await plan('pull', { top: 'top.qcow2', base: '' });
  await cdp.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 20 << 20 });
  try {
    const result = await h.run(page);
    assert.equal(result.status, 'failed');
    assert.match(result.text, /(not enough free space|no room for it)[^]*All files are as they were/);
  } finally {
    await cdp.send('Storage.overrideQuotaForOrigin', { origin });
  }
  assert.deepEqual(['base.qcow2', 'top.qcow2'].map((name) => h.sha256(at(name))), before);
  // And with room it works.
  await plan('pull', { top: 'top.qcow2', base: '' });
  const again = await h.run(page);
  assert.equal(again.status, 'done', again.text);
});

test('a disk that runs full on the way leaves everything as it was', async (t) => {
  const { execFileSync } = await import('node:child_process');
  const { mkdirSync, copyFileSync, readdirSync } = await import('node:fs');
  mkdirSync(at('full'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=120M', 'tmpfs', at('full')], { stdio: 'ignore' });
  } catch {
    t.skip('needs leave to mount a small file system');
    return;
  }
  try {
    pair({ mib: 60 });
    for (const name of ['base.qcow2', 'top.qcow2']) copyFileSync(at(name), at(`full/${name}`));
    const before = h.sha256(at('full/top.qcow2'));
    await h.drop(page, [at('full/base.qcow2'), at('full/top.qcow2')]);
    await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
    await plan('pull', { top: 'top.qcow2', base: '' });
    const result = await h.run(page);
    assert.equal(result.status, 'failed', result.text);
    // Where the copy of a part fails, a browser says only that it could not be read.
    assert.match(result.text, /(not enough free space|no room for it)[^]*All files are as they were/);
    assert.equal(h.sha256(at('full/top.qcow2')), before);
    assert.deepEqual(readdirSync(at('full')).sort(), ['base.qcow2', 'top.qcow2']);
  } finally {
    execFileSync('umount', ['-l', at('full')]);
  }
});
