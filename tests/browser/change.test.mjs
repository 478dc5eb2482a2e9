// Snapshots, new files and changes to one image, on real files of the local disk, judged by
// qemu-img.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
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
  await mkdir(join(dir, 'vm'));
  await page.goto(session.site.url);
  await page.waitForSelector('[data-testid="demo"]');
  session.messages.length = 0;
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
  const wrong = session.messages.filter((m) => /^(error|pageerror)|panicked/.test(m));
  assert.deepEqual(wrong, []);
});

const at = (name) => join(dir, 'vm', name);

/** base <- mid <- top, each with data of its own. */
function chain({ size = '24M', options = [] } = {}) {
  const names = ['base.qcow2', 'mid.qcow2', 'top.qcow2'];
  names.forEach((name, i) => {
    const backing = i === 0 ? [] : ['-b', names[i - 1], '-F', 'qcow2'];
    h.qemuImg('create', '-q', '-f', 'qcow2', ...options, ...backing, at(name), size);
    h.qemuIo(at(name), 'qcow2', `write -P ${0x21 + i} ${i * 3}M 5M`, `write -P ${0x31 + i} ${15 + i}M 200k`,
      ...(i > 0 ? [`write -z ${i}M 300k`] : []));
  });
  return names;
}

/** What an image reads like, as a raw file to compare with later. */
function remember(name, as = `${name}.before`) {
  h.qemuImg('convert', '-O', 'raw', at(name), join(dir, as));
  return join(dir, as);
}

const info = (name) => JSON.parse(h.qemuImg('info', '--output=json', at(name)));
const snapshots = (name) => (info(name).snapshots ?? []).map((s) => s.name);

/** Drops the whole folder, as a person does. */
async function dropFolder(names = ['base.qcow2', 'mid.qcow2', 'top.qcow2']) {
  await h.drop(page, join(dir, 'vm'));
  for (const name of names) await page.waitForSelector(`[data-testid="node"][data-name="${name}"]`);
}

async function fill(fields) {
  for (const [field, value] of Object.entries(fields)) {
    const control = page.locator(`[data-testid="${field}"]`);
    if (!(await control.isVisible())) await page.click('[data-testid="more-options"]');
    const tag = await control.evaluate((e) => (e.tagName === 'SELECT' ? 'select' : e.type));
    if (tag === 'select') await control.selectOption(value);
    else if (tag === 'checkbox') await control.setChecked(value);
    else await control.fill(value);
  }
}

async function perform(op, layers, fields = {}, expected = 'done') {
  await h.choose(page, op, layers);
  await fill(fields);
  const result = await h.run(page);
  assert.equal(result.status, expected, result.text);
  return result;
}

describe('internal snapshots', () => {
  test('one is taken, reverted to and deleted, and qemu-img agrees each time', async () => {
    chain();
    const then = remember('top.qcow2');
    await dropFolder();
    await perform('snapshot', { top: 'top.qcow2' }, { 'snapshot-name': 'before upgrade' });
    assert.deepEqual(snapshots('top.qcow2'), ['before upgrade']);
    h.check(at('top.qcow2'));

    h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 0x77 0 8M');
    await dropFolder();
    await perform('revert', { top: 'top.qcow2' }, { snapshot: '1' });
    h.check(at('top.qcow2'));
    h.same(at('top.qcow2'), 'qcow2', then);

    await perform('delete-snapshot', { top: 'top.qcow2' }, { snapshot: '1' });
    assert.deepEqual(snapshots('top.qcow2'), []);
    h.check(at('top.qcow2'));
    h.same(at('top.qcow2'), 'qcow2', then);
  });

  test('a base that overlays stand on is not reverted without being asked', async () => {
    chain();
    h.qemuImg('snapshot', '-c', 'old', at('base.qcow2'));
    h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 0x55 1M 1M');
    const before = h.sha256(at('base.qcow2'));
    await dropFolder();
    await h.choose(page, 'revert', { top: 'base.qcow2' });
    await page.waitForSelector('[data-testid="force"]');
    assert.match(await page.innerText('[data-testid="preview"]'), /would break other images/);
    const result = await h.run(page);
    assert.equal(result.status, 'failed', result.text);
    assert.equal(h.sha256(at('base.qcow2')), before);
  });
});

describe('external snapshots', () => {
  test('an overlay is made beside its backing file, which stays as it is', async () => {
    chain();
    const before = h.sha256(at('top.qcow2'));
    const view = remember('top.qcow2');
    await dropFolder();
    await perform('overlay', { top: 'top.qcow2' }, { name: 'new.qcow2' });
    assert.equal(h.sha256(at('top.qcow2')), before);
    assert.equal(info('new.qcow2')['backing-filename'], 'top.qcow2');
    assert.equal(info('new.qcow2')['backing-filename-format'], 'qcow2');
    h.check(at('new.qcow2'));
    h.same(at('new.qcow2'), 'qcow2', view);
    await h.waitForChain(page, {
      'base.qcow2': '', 'mid.qcow2': 'base.qcow2', 'top.qcow2': 'mid.qcow2', 'new.qcow2': 'top.qcow2',
    });
    // It is a layer like any other: it can be written at once.
    await perform('resize', { top: 'new.qcow2' }, { size: '+8M' });
    assert.equal(info('new.qcow2')['virtual-size'], 32 << 20);
  });

  test('a file that is there is never written over', async () => {
    chain();
    await writeFile(at('notes.txt'), 'mine');
    await dropFolder();
    await h.choose(page, 'overlay', { top: 'top.qcow2' });
    await fill({ name: 'mid.qcow2' });
    await page.waitForFunction(() =>
      /already/.test(document.querySelector('[data-testid="preview"][data-ready="true"]')?.innerText));
    const result = await perform('overlay', { top: 'top.qcow2' }, { name: 'notes.txt' }, 'failed');
    assert.match(result.text, /already/);
    assert.equal(h.fileSize(at('notes.txt')), 4);
  });

  test('going back makes a fresh overlay on the earlier layer and names what came after', async () => {
    chain();
    const view = remember('base.qcow2');
    await dropFolder();
    const result = await perform('go-back', { top: 'top.qcow2', base: 'base.qcow2' }, { name: 'again.qcow2' });
    assert.match(result.text, /no longer needed: mid\.qcow2, top\.qcow2/);
    assert.equal(info('again.qcow2')['backing-filename'], 'base.qcow2');
    h.same(at('again.qcow2'), 'qcow2', view);
    h.check(at('again.qcow2'));
  });

  test('going back to the layer itself writes nothing', async () => {
    const names = chain();
    const before = names.map((name) => h.sha256(at(name)));
    await dropFolder();
    const result = await perform('go-back', { top: 'top.qcow2', base: 'mid.qcow2' }, { how: 'itself' });
    assert.match(result.text, /no longer needed: top\.qcow2/);
    assert.deepEqual(names.map((name) => h.sha256(at(name))), before);
  });
});

describe('one image changes', () => {
  test('a disk grows, and reads zeros where it grew', async () => {
    chain();
    remember('top.qcow2');
    await dropFolder();
    await perform('resize', { top: 'top.qcow2' }, { size: '40M' });
    assert.equal(info('top.qcow2')['virtual-size'], 40 << 20);
    h.check(at('top.qcow2'));
    h.qemuImg('resize', '-q', '-f', 'raw', join(dir, 'top.qcow2.before'), '40M');
    h.same(at('top.qcow2'), 'qcow2', join(dir, 'top.qcow2.before'));
  });

  test('a disk shrinks only when it is said that its end may be lost', async () => {
    chain();
    const view = remember('top.qcow2');
    await dropFolder();
    await perform('resize', { top: 'top.qcow2' }, { size: '-8M' }, 'failed');
    assert.equal(info('top.qcow2')['virtual-size'], 24 << 20);
    await h.choose(page, 'resize', { top: 'top.qcow2' });
    await fill({ size: '16M', shrink: true });
    const result = await h.run(page);
    assert.equal(result.status, 'done', result.text);
    assert.equal(info('top.qcow2')['virtual-size'], 16 << 20);
    h.check(at('top.qcow2'));
    h.qemuImg('resize', '-q', '--shrink', '-f', 'raw', view, '16M');
    h.same(at('top.qcow2'), 'qcow2', view);
  });

  test('leaks and wrong refcounts are mended, as check sees afterwards', async () => {
    chain();
    const view = remember('top.qcow2');
    const count = async (cluster, value) => {
      const file = await open(at('top.qcow2'), 'r+');
      const [header, table] = [Buffer.alloc(64), Buffer.alloc(8)];
      await file.read(header, 0, 64, 0);
      await file.read(table, 0, 8, Number(header.readBigUInt64BE(48)));
      await file.write(Buffer.from([0, value]), 0, 2, Number(table.readBigUInt64BE(0)) + 2 * cluster);
      await file.truncate(Math.max((await file.stat()).size, (cluster + 1) << 16));
      await file.close();
    };
    await count(h.fileSize(at('top.qcow2')) >> 16, 1); // One more cluster that nobody uses.
    assert.throws(() => h.check(at('top.qcow2')));
    await dropFolder();
    await perform('repair', { top: 'top.qcow2' });
    h.check(at('top.qcow2'));
    await count(3, 0); // A table's own cluster counts as free.
    assert.throws(() => h.check(at('top.qcow2')));
    await dropFolder();
    await perform('repair', { top: 'top.qcow2' }, { fix: 'all' });
    h.check(at('top.qcow2'));
    h.same(at('top.qcow2'), 'qcow2', view);
  });

  test('an image becomes version 2 and 3 again, and its refcounts wider', async () => {
    h.qemuImg('create', '-q', '-f', 'qcow2', at('one.qcow2'), '8M');
    h.qemuIo(at('one.qcow2'), 'qcow2', 'write -P 9 0 3M', 'write -z 4M 1M');
    const view = remember('one.qcow2');
    await dropFolder(['one.qcow2']);
    const specific = () => info('one.qcow2')['format-specific'].data;
    await perform('amend', {}, { amendment: 'compat=0.10' });
    assert.equal(specific().compat, '0.10');
    h.check(at('one.qcow2'));
    await perform('amend', {}, { amendment: 'compat=1.1' });
    await perform('amend', {}, { amendment: 'refcount_bits=64' });
    await perform('amend', {}, { amendment: 'lazy_refcounts=on' });
    assert.equal(specific()['refcount-bits'], 64);
    assert.equal(specific()['lazy-refcounts'], true);
    h.check(at('one.qcow2'));
    h.same(at('one.qcow2'), 'qcow2', view);
  });

  test('bitmaps are added, merged, disabled, cleared and removed', async () => {
    h.qemuImg('create', '-q', '-f', 'qcow2', at('one.qcow2'), '8M');
    h.qemuImg('bitmap', '--add', at('one.qcow2'), 'seen');
    h.qemuIo(at('one.qcow2'), 'qcow2', 'write -P 9 0 1M');
    await dropFolder(['one.qcow2']);
    const bitmaps = () => Object.fromEntries(
      (info('one.qcow2')['format-specific'].data.bitmaps ?? []).map((b) => [b.name, b]));
    await perform('bitmap', {}, { action: 'add', bitmap: 'fresh', granularity: '32K' });
    assert.equal(bitmaps().fresh.granularity, 32768);
    await perform('bitmap', {}, { action: 'merge', bitmap: 'fresh', 'other-bitmap': 'seen' });
    await perform('bitmap', {}, { action: 'disable', bitmap: 'seen' });
    assert.deepEqual(bitmaps().seen.flags, []);
    await perform('bitmap', {}, { action: 'enable', bitmap: 'seen' });
    assert.deepEqual(bitmaps().seen.flags, ['auto']);
    await perform('bitmap', {}, { action: 'clear', bitmap: 'seen' });
    await perform('bitmap', {}, { action: 'remove', bitmap: 'seen' });
    assert.deepEqual(Object.keys(bitmaps()), ['fresh']);
    h.check(at('one.qcow2'));
  });
});

describe('new files', () => {
  test('an empty image is made as it was asked for', async () => {
    chain();
    await dropFolder();
    await perform('create', {}, {
      name: 'blank.qcow2', size: '1.5G', cluster: '128K', 'refcount-bits': '32', 'extended-l2': true,
    });
    const made = info('blank.qcow2');
    assert.equal(made['virtual-size'], 1536 << 20);
    assert.equal(made['cluster-size'], 128 << 10);
    assert.equal(made['format-specific'].data['refcount-bits'], 32);
    assert.equal(made['format-specific'].data['extended-l2'], true);
    h.check(at('blank.qcow2'));
    await page.waitForSelector('[data-testid="node"][data-name="blank.qcow2"]');

    await perform('create', {}, { format: 'raw', name: 'blank.img', size: '5M' });
    assert.equal(h.fileSize(at('blank.img')), 5 << 20);
  });

  test('an image is made where there is no file yet, and becomes the first layer', async () => {
    await page.click('[data-testid="new-image"]');
    await fill({ name: 'first.qcow2', place: 'private', size: '64M' });
    const result = await h.run(page);
    assert.equal(result.status, 'done', result.text);
    await page.waitForSelector('[data-testid="node"][data-name="first.qcow2"][data-state="ok"]');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid="save"]')]);
    await download.saveAs(at('first.qcow2'));
    h.check(at('first.qcow2'));
    assert.equal(info('first.qcow2')['virtual-size'], 64 << 20);
  });

  const EXPORTS = {
    'flattened as qcow2': [{}, 'qcow2'],
    'flattened as raw': [{ format: 'raw' }, 'raw'],
    'with zeros left out': [{ 'find-zeros': true, cluster: '4K' }, 'qcow2'],
    'compressed with zlib': [{ compress: 'zlib' }, 'qcow2'],
    'compressed with zstd': [{ compress: 'zstd', cluster: '256K' }, 'qcow2'],
    'as version 2': [{ compat: '0.10' }, 'qcow2'],
    'with metadata preallocated': [{ preallocation: 'metadata' }, 'qcow2'],
  };
  for (const [title, [fields, format]] of Object.entries(EXPORTS)) {
    test(`a chain is exported ${title}`, async () => {
      chain();
      const view = remember('top.qcow2');
      const name = format === 'raw' ? 'out.raw' : 'out.qcow2';
      await dropFolder();
      await perform('export', { top: 'top.qcow2' }, { ...fields, name });
      if (format === 'qcow2') {
        h.check(at(name));
        assert.equal(h.backingOf(at(name)), '');
      }
      h.same(at(name), format, view);
      if (fields.compress) {
        assert.equal(info(name)['format-specific'].data['compression-type'], fields.compress);
        assert.ok(h.fileSize(at(name)) < 2 << 20, `${h.fileSize(at(name))} bytes`);
        await page.waitForSelector(`[data-testid="node"][data-name="${name}"][data-state="ok"]`);
      }
      // What qemu-img itself makes of the chain reads the same.
      h.qemuImg('convert', '-O', format, at('top.qcow2'), join(dir, 'theirs'));
      h.qemuImg('compare', '-f', format, '-F', format, at(name), join(dir, 'theirs'));
    });
  }

  test('an export can keep the backing file', async () => {
    chain();
    const view = remember('top.qcow2');
    await dropFolder();
    await perform('export', { top: 'top.qcow2', base: 'base.qcow2' }, { name: 'out.qcow2' });
    assert.equal(info('out.qcow2')['backing-filename'], 'base.qcow2');
    h.check(at('out.qcow2'));
    h.same(at('out.qcow2'), 'qcow2', view);
  });

  test('an export can be of an internal snapshot', async () => {
    chain();
    const view = remember('top.qcow2');
    h.qemuImg('snapshot', '-c', 'old', at('top.qcow2'));
    h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 0x66 0 4M');
    await dropFolder();
    await perform('export', { top: 'top.qcow2' }, { name: 'old.raw', format: 'raw', snapshot: '1' });
    h.same(at('old.raw'), 'raw', view);
  });

  test('without a folder the new file is kept by the browser and offered to be saved', async () => {
    chain();
    const view = remember('top.qcow2');
    await h.drop(page, ['base.qcow2', 'mid.qcow2', 'top.qcow2'].map(at));
    await page.waitForSelector('[data-name="top.qcow2"]');
    await h.choose(page, 'export', { top: 'top.qcow2' });
    await fill({ name: 'out.qcow2', place: 'private' });
    const result = await h.run(page);
    assert.equal(result.status, 'done', result.text);
    assert.doesNotMatch(result.text, /unchanged/);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid="save"]')]);
    await download.saveAs(at('saved.qcow2'));
    h.check(at('saved.qcow2'));
    h.same(at('saved.qcow2'), 'qcow2', view);
    assert.ok(!existsSync(at('out.qcow2')));
    await page.waitForSelector('[data-testid="node"][data-name="out.qcow2"][data-state="ok"]');
  });

  test('the place can be chosen in the click, and a layer is not written over there', async () => {
    chain();
    const view = remember('top.qcow2');
    await writeFile(at('chosen.qcow2'), '');
    // The picker cannot be worked by a program: it gives what was dropped before.
    await page.evaluate(() => {
      window.addEventListener('drop', async (event) => {
        const items = [...event.dataTransfer.items];
        const handles = await Promise.all(items.map((item) => item.getAsFileSystemHandle()));
        const chosen = handles.find((handle) => handle.name === 'chosen.qcow2');
        if (chosen) window.chosen = chosen;
        else window.layers = handles;
        window.showSaveFilePicker = async () => window.chosen;
      }, { capture: true });
    });
    await h.drop(page, ['base.qcow2', 'mid.qcow2', 'top.qcow2'].map(at));
    await page.waitForSelector('[data-name="top.qcow2"]');
    await page.evaluate(() => {
      window.addEventListener('drop', (event) => event.stopImmediatePropagation(), { capture: true });
    });
    await h.drop(page, at('chosen.qcow2'));
    await page.waitForFunction(() => window.chosen);
    await h.choose(page, 'export', { top: 'top.qcow2' });
    await fill({ name: 'whatever.qcow2', place: 'picked' });
    const result = await h.run(page);
    assert.equal(result.status, 'done', result.text);
    h.check(at('chosen.qcow2'));
    h.same(at('chosen.qcow2'), 'qcow2', view);
    await page.waitForSelector('[data-testid="node"][data-name="chosen.qcow2"]');

    await page.evaluate(() => {
      window.showSaveFilePicker = async () => window.layers.find((handle) => handle.name === 'base.qcow2');
    });
    const before = h.sha256(at('base.qcow2'));
    const refused = await perform('export', { top: 'top.qcow2' }, { name: 'x.qcow2', place: 'picked' }, 'failed');
    assert.match(refused.text, /not overwritten/);
    assert.equal(h.sha256(at('base.qcow2')), before);
  });

  test('a cancelled export leaves no file behind', async () => {
    h.qemuImg('create', '-q', '-f', 'qcow2', at('big.qcow2'), '4G');
    h.qemuIo(at('big.qcow2'), 'qcow2', 'write -P 5 0 400M');
    await dropFolder(['big.qcow2']);
    await h.choose(page, 'export', { top: 'big.qcow2' });
    await fill({ name: 'out.qcow2', compress: 'zlib' });
    await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
    await page.click('[data-testid="run"]');
    await page.waitForSelector('[data-testid="progress"]');
    await page.click('[data-testid="cancel"]');
    const result = await h.result(page);
    assert.equal(result.status, 'cancelled', result.text);
    assert.ok(!existsSync(at('out.qcow2')));
  });
});

describe('the cheapest way', () => {
  const ways = () => page.$$eval('[data-testid="way"]', (rows) => rows.map((row) => ({
    way: row.querySelector('th span').firstChild.textContent.trim(),
    bytes: row.querySelector('.ways__bytes').textContent,
    chosen: row.querySelector('input').checked,
    possible: row.dataset.possible === 'true',
  })));

  /** base <- mid <- top: mid holds much, top hides nearly all of it. */
  function lopsided() {
    chain({ size: '64M' });
    h.qemuIo(at('mid.qcow2'), 'qcow2', 'write -P 0x41 24M 30M');
    h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 0x42 0 58M');
  }

  test('to remove a layer is chosen by the bytes it costs, and is what runs', async () => {
    lopsided();
    const view = remember('top.qcow2');
    await dropFolder();
    await h.choose(page, 'remove', { top: 'mid.qcow2' });
    await page.waitForSelector('[data-testid="preview"][data-ready="true"] [data-testid="ways"]');
    const found = await ways();
    assert.deepEqual(new Set(found.map((w) => w.way.replace(/[:] .*| (into|of) .*/, ''))),
      new Set(['Method 1', 'Method 2', 'Pull', 'Flatten']));
    const chosen = found.find((w) => w.chosen);
    assert.match(chosen.way, /^Method 2/);
    assert.ok(found.every((w) => w.possible && /^[\d.]+ .?i?B$/.test(w.bytes)), JSON.stringify(found));
    const before = h.sha256(at('mid.qcow2'));
    const result = await h.run(page);
    assert.equal(result.status, 'done', result.text);
    assert.equal(h.backingOf(at('top.qcow2')), 'base.qcow2');
    assert.equal(h.sha256(at('mid.qcow2')), before);
    h.check(at('top.qcow2'));
    h.same(at('top.qcow2'), 'qcow2', view);
  });

  test('another way can be taken, and the others stay to be seen', async () => {
    lopsided();
    const view = remember('top.qcow2');
    await dropFolder();
    await h.choose(page, 'remove', { top: 'mid.qcow2' });
    await page.waitForSelector('[data-testid="ways"]');
    await page.locator('[data-testid="way"]', { hasText: 'Pull into' }).locator('input').check();
    await page.waitForSelector('[data-testid="operation"][aria-label="Pull"]');
    await page.waitForSelector('[data-testid="preview"][data-ready="true"] [data-testid="ways"]');
    assert.match((await ways()).find((w) => w.chosen).way, /^Pull/);
    const result = await h.run(page);
    assert.equal(result.status, 'done', result.text);
    assert.equal(h.backingOf(at('top.qcow2')), 'base.qcow2');
    h.check(at('top.qcow2'));
    h.same(at('top.qcow2'), 'qcow2', view);
  });

  test('a base cannot be removed by a method, and the ways that there are are shown', async () => {
    chain();
    await dropFolder();
    await h.choose(page, 'remove', { top: 'base.qcow2' });
    await page.waitForSelector('[data-testid="preview"][data-ready="true"] [data-testid="ways"]');
    assert.match(await page.innerText('[data-testid="preview"]'), /is the base of the chain/);
    assert.deepEqual((await ways()).map((w) => w.way.split(' ')[0]).sort(), ['Flatten', 'Pull']);
  });

  test('to stand alone, a commit that breaks others is shown as refused', async () => {
    chain();
    h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('branch.qcow2'));
    await dropFolder();
    await h.choose(page, 'pull', { top: 'top.qcow2', base: '' });
    await page.waitForSelector('[data-testid="preview"][data-ready="true"] [data-testid="ways"]');
    const commit = page.locator('[data-testid="way"]', { hasText: 'Commit top.qcow2 into base.qcow2' });
    assert.match(await commit.innerText(), /refused[^]*branch\.qcow2/);
  });
});

describe('options of merges', () => {
  const bitmaps = (name) => (info(name)['format-specific'].data.bitmaps ?? []).map((b) => b.name);

  test('a commit takes the bitmaps along and empties the top, when asked to', async () => {
    chain();
    h.qemuImg('bitmap', '--add', at('top.qcow2'), 'seen');
    h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 0x51 9M 1M');
    const view = remember('top.qcow2');
    await dropFolder();
    await perform('commit', { top: 'top.qcow2', base: 'mid.qcow2' }, { bitmaps: true, 'empty-top': true });
    assert.deepEqual(bitmaps('mid.qcow2'), ['seen']);
    h.same(at('mid.qcow2'), 'qcow2', view);
    h.same(at('top.qcow2'), 'qcow2', view);
    for (const name of ['mid.qcow2', 'top.qcow2']) h.check(at(name));
    const map = JSON.parse(h.qemuImg('map', '--output=json', at('top.qcow2')));
    assert.ok(map.every((extent) => extent.depth > 0), 'the top still holds something');
  });

  test('what a rebase copies is compressed, when asked to', async () => {
    chain();
    const view = remember('top.qcow2');
    const before = h.fileSize(at('top.qcow2'));
    await dropFolder();
    await perform('rebase', { top: 'top.qcow2', base: 'base.qcow2' }, { pack: true });
    assert.equal(h.backingOf(at('top.qcow2')), 'base.qcow2');
    assert.ok(h.fileSize(at('top.qcow2')) < before + (1 << 20));
    h.check(at('top.qcow2'));
    h.same(at('top.qcow2'), 'qcow2', view);
  });

  test('an export copies the bitmaps, when asked to', async () => {
    chain();
    h.qemuImg('bitmap', '--add', at('top.qcow2'), 'seen');
    await dropFolder();
    await perform('export', { top: 'top.qcow2' }, { name: 'out.qcow2', bitmaps: true });
    assert.deepEqual(bitmaps('out.qcow2'), ['seen']);
    h.check(at('out.qcow2'));
  });
});

describe('the preview', () => {
  test('tells what is missing beside the field, and cannot be run before', async () => {
    chain();
    await dropFolder();
    await h.choose(page, 'resize', { top: 'top.qcow2' });
    await fill({ size: '12 apples' });
    await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
    assert.equal(await page.getAttribute('[data-testid="size"]', 'aria-invalid'), 'true');
    assert.match(await page.innerText('.field:has([data-testid="size"])'), /no size/);
    assert.ok(await page.isDisabled('[data-testid="run"]'));
    await fill({ size: '1G' });
    await page.waitForSelector('[data-testid="run"]:not([disabled])');
    await h.choose(page, 'revert', { top: 'top.qcow2' });
    await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
    assert.match(await page.innerText('[data-testid="preview"]'), /top\.qcow2 has no internal snapshots/);
    assert.ok(await page.isDisabled('[data-testid="run"]'));
  });

  test('plays as a film: the data moves, then the links are as afterwards', async () => {
    await page.click('[data-testid="demo"]');
    await page.waitForSelector('[data-name="Snap-4.qcow2"]');
    await h.choose(page, 'commit', { top: 'Snap-3.qcow2', base: 'RootBase.qcow2' });
    await page.click('[data-testid="preview"][data-ready="true"] [data-testid="animate"]');
    const act = (name) => page.waitForFunction(
      (wanted) => document.querySelector('[data-testid="film-act"]')?.textContent === wanted, name);
    await act('Before');
    assert.equal(await page.locator('[data-testid="film"] .flow').count(), 0);
    await act('Data moves');
    assert.equal(await page.locator('[data-testid="film"] path.flow').count(), 3);
    await act('After');
    assert.equal(await page.locator('[data-testid="film"] .layer--invalid').count(), 3);
    await page.click('[data-testid="film-end"]');
    await page.waitForSelector('figure:nth-of-type(2)');
  });
});

describe('menus, drags and keys', () => {
  const demo = async () => {
    await page.click('[data-testid="demo"]');
    await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  };
  const focusOn = (id) => page.waitForFunction((wanted) => document.activeElement?.dataset.testid === wanted, id);
  const focused = () => page.evaluate(() => document.activeElement?.dataset.testid);

  test('a menu is walked through by keys, and gives the focus back', async () => {
    await demo();
    await page.focus('[data-testid="menu-snapshots"]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[role="menu"]');
    assert.equal(await focused(), 'op-overlay');
    await page.keyboard.press('ArrowDown');
    assert.equal(await focused(), 'op-go-back');
    await page.keyboard.press('End');
    assert.equal(await focused(), 'op-delete-snapshot');
    await page.keyboard.press('ArrowDown');
    assert.equal(await focused(), 'op-overlay');
    await page.keyboard.press('Escape');
    await page.waitForSelector('[role="menu"]', { state: 'detached' });
    await focusOn('menu-snapshots');
    await page.keyboard.press('Enter');
    await page.keyboard.press('s');
    await page.waitForSelector('[data-testid="operation"][aria-label="Take internal snapshot"]');
    // The focus goes on in the form, and after the run to what closes it.
    await focusOn('top');
    await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
    await page.focus('[data-testid="run"]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-testid="result"][data-status="done"]');
    await page.waitForFunction(() => document.activeElement?.textContent === 'Close');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-testid="operation"]', { state: 'detached' });
  });

  test('a layer has a menu of its own, by mouse, by key and by button', async () => {
    await demo();
    await page.click('[data-name="Snap-2.qcow2"]', { button: 'right' });
    await page.waitForSelector('[role="menu"][aria-label="Actions for Snap-2.qcow2"]');
    assert.equal(await page.locator('[role="menuitem"]').count(), 15);
    await page.click('[role="menuitem"][data-testid="op-export"]');
    await page.waitForSelector('[data-testid="operation"][aria-label="Export"]');
    assert.equal(await page.inputValue('[data-testid="top"]'), 'Snap-2.qcow2');
    await page.keyboard.press('Escape');

    await page.focus('[data-name="Snap-2.qcow2"]');
    await page.keyboard.press('ArrowRight');
    await page.waitForFunction(() => document.activeElement?.dataset.name === 'Snap-3.qcow2');
    await page.keyboard.press('Shift+F10');
    await page.waitForSelector('[role="menu"][aria-label="Actions for Snap-3.qcow2"]');
    await page.keyboard.press('z');
    await page.waitForSelector('[data-testid="operation"][aria-label="Resize"]');
    assert.equal(await page.inputValue('[data-testid="top"]'), 'Snap-3.qcow2');
    await page.keyboard.press('Escape');

    await page.click('[data-name="Snap-1.qcow2"]');
    await page.click('[data-testid="actions"]');
    await page.waitForSelector('[role="menu"][aria-label="Actions for Snap-1.qcow2"]');
    await page.keyboard.press('Escape');
    await focusOn('actions');
  });

  test('a base dragged onto its overlay asks whether to pull or to rebase', async () => {
    await demo();
    await page.dragAndDrop('[data-name="Snap-1.qcow2"]', '[data-name="Snap-3.qcow2"]');
    await page.waitForSelector('[data-testid="ask"]');
    const said = await page.innerText('[data-testid="ask"]');
    assert.match(said, /Pull Snap-2\.qcow2, Snap-1\.qcow2 into Snap-3\.qcow2/);
    assert.match(said, /Rebase Snap-3\.qcow2 onto Snap-1\.qcow2/);
    await page.keyboard.press('Escape');
    await page.waitForSelector('[data-testid="ask"]', { state: 'detached' });
    assert.equal(await page.$('[data-testid="operation"]'), null);

    await page.dragAndDrop('[data-name="Snap-1.qcow2"]', '[data-name="Snap-3.qcow2"]');
    await page.click('[data-testid="ask-rebase"]');
    await page.waitForSelector('[data-testid="operation"][aria-label="Rebase"]');
    assert.equal(await page.inputValue('[data-testid="top"]'), 'Snap-3.qcow2');
    assert.equal(await page.inputValue('[data-testid="base"]'), 'Snap-1.qcow2');
  });

  test('the keys are told, and each one that is told opens its form', async () => {
    await demo();
    await page.keyboard.press('?');
    await page.waitForSelector('dialog[open] [data-testid="dialog-close"]');
    assert.match(await page.innerText('[data-testid="keys"]'), /Take internal snapshot/);
    // A key meant for the page does nothing behind the dialog.
    await page.keyboard.press('c');
    await page.keyboard.press('Escape');
    await page.waitForSelector('[data-testid="keys"]', { state: 'detached' });
    assert.equal(await page.$('[data-testid="operation"]'), null);
    const forms = { c: 'Commit', n: 'New overlay', g: 'Go back to a layer', k: 'Repair', a: 'Amend', t: 'Bitmaps', i: 'New image', e: 'Export', v: 'Revert to internal snapshot', d: 'Delete internal snapshot' };
    for (const [key, label] of Object.entries(forms)) {
      await page.keyboard.press(key);
      await page.waitForSelector(`[data-testid="operation"][aria-label="${label}"]`);
      await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
      await page.keyboard.press('Escape');
    }
  });

  test('the same as command lines can be copied, and qemu-img takes what it says', async () => {
    await session.context.grantPermissions(['clipboard-read', 'clipboard-write']);
    chain();
    const view = remember('top.qcow2');
    await dropFolder();
    const copied = async () => {
      await page.waitForSelector('[data-testid="preview"][data-ready="true"] [data-testid="commands"]');
      await page.click('[data-testid="commands"]');
      await page.click('[data-testid="copy-qemu-img"]');
      await page.waitForFunction(() => /Copied/.test(document.querySelector('[data-testid="copy-qemu-img"]').innerText));
      return page.evaluate(() => navigator.clipboard.readText());
    };
    const follow = (line) => execFileSync('sh', ['-c', line], { cwd: dir });

    await h.choose(page, 'export', { top: 'top.qcow2' });
    await fill({ name: 'copy.qcow2', compress: 'zstd', cluster: '128K' });
    follow(await copied());
    h.same(at('copy.qcow2'), 'qcow2', view);
    assert.equal(info('copy.qcow2')['format-specific'].data['compression-type'], 'zstd');

    await h.choose(page, 'overlay', { top: 'top.qcow2' });
    await fill({ name: 'over it.qcow2' });
    follow(await copied());
    await dropFolder(['over it.qcow2']);
    assert.equal(info('over it.qcow2')['backing-filename'], 'top.qcow2');
    h.same(at('over it.qcow2'), 'qcow2', view);

    await h.choose(page, 'pull', { top: 'mid.qcow2', base: '' });
    follow(await copied());
    await dropFolder();
    await h.choose(page, 'rebase', { top: 'over it.qcow2', base: 'mid.qcow2' });
    follow(await copied());
    assert.equal(info('over it.qcow2')['backing-filename'], 'mid.qcow2');
    h.same(at('over it.qcow2'), 'qcow2', view);

    await h.choose(page, 'snapshot', { top: 'top.qcow2' });
    await fill({ 'snapshot-name': "it's" });
    follow(await copied());
    assert.deepEqual(snapshots('top.qcow2'), ["it's"]);

    await h.choose(page, 'create');
    await fill({ name: 'fresh.qcow2', size: '20M', 'refcount-bits': '8' });
    follow(await copied());
    assert.equal(info('fresh.qcow2')['virtual-size'], 20 << 20);
  });
});
