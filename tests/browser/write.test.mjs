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
      const answer = window.heard.slice(from).find((e) => kinds.some((kind) => e?.[kind] !== undefined));
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

  const operation = { kind: 'Rebase', top, base: tree['moved.qcow2'].id, link_only: true, force: false };
  const { Outcome } = await ask({ Run: { operation, read_only: [] } }, ['Outcome']);
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
