// Staged changes: everything is shown as it would be, nothing is written before Apply, and what
// is written then is what was shown. Real files, judged by qemu-img.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { existsSync } from 'node:fs';
import { appendFile, cp, mkdir, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as h from './harness.mjs';

let session;
let page;
let dir;

before(async () => {
  session = await h.start();
  page = session.page;
  // Staged changes are guarded against leaving the page by mistake.
  page.on('dialog', (dialog) => dialog.accept());
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
const NAMES = ['base.qcow2', 'sn1.qcow2', 'sn2.qcow2', 'sn3.qcow2'];
const [BASE, SN1, SN2, SN3] = NAMES;
const CHAIN = { [BASE]: '', [SN1]: BASE, [SN2]: SN1, [SN3]: SN2 };

/** Four layers with data of their own: sn2's is at 8 MiB, byte 0x33. */
async function chain(...more) {
  for (const [i, name] of NAMES.entries()) {
    const backing = i === 0 ? [] : ['-b', NAMES[i - 1], '-F', 'qcow2'];
    h.qemuImg('create', '-q', '-f', 'qcow2', ...more, ...backing, at(name), '32M');
    h.qemuIo(at(name), 'qcow2', `write -P ${0x11 * (i + 1)} ${i * 4}M 3M`, `write -P ${0x71 + i} ${20 + i}M 200k`);
  }
  for (const name of NAMES) h.qemuImg('convert', '-O', 'raw', at(name), at(`${name}.raw`));
  await h.drop(page, NAMES.map(at));
  await h.waitForChain(page, CHAIN);
}

const hashes = () => NAMES.map((name) => h.sha256(at(name)));
const count = (id) => page.locator(`[data-testid="${id}"]`).count();
const status = () => page.locator('[data-testid="staged-status"]').innerText();

/** Stages an operation and waits until it is there. */
async function stage(op, choices) {
  const before = await count('staged-change');
  await h.choose(page, op, choices);
  await press('try');
  await staged(before + 1);
}

async function fill(fields) {
  for (const [field, value] of Object.entries(fields)) {
    const control = page.locator(`[data-testid="${field}"]`);
    if (!(await control.isVisible())) await page.click('[data-testid="more-options"]');
    const select = await control.evaluate((e) => e.tagName === 'SELECT');
    await (select ? control.selectOption(value) : control.fill(value));
  }
}

/** Presses a button of the form once the operation is planned. */
async function press(button) {
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  await page.click(`[data-testid="${button}"]`);
}

async function staged(expected) {
  await page.waitForFunction(
    (n) => document.querySelectorAll('[data-testid="staged-change"]').length === n,
    expected,
  );
}

/** What map, file on disk and details tell of a layer. */
async function seen(layer) {
  const told = {};
  for (const lens of ['map', 'disk']) {
    await page.click(`[data-testid="lens-${lens}"]`);
    await page.waitForSelector(`[data-testid="look-${lens}"]`);
    await page.selectOption('[data-testid="look-layer"]', { label: layer });
    await page.waitForSelector(`[data-testid="${lens}-canvas"][data-ready="true"]`);
    if (lens === 'map') {
      await page.locator('[data-testid="look-map"] summary').first().click();
      told.table = await page.locator('[data-testid="map-table"]').innerText();
    } else {
      told.totals = await page.locator('[data-testid="disk-totals"]').innerText();
    }
  }
  await page.click('[data-testid="lens-disk"]');
  await page.locator(`[data-testid="node"][data-name="${layer}"]`).click();
  await page.waitForFunction(() => /Refcount/.test(document.querySelector('[data-testid="details"]')?.innerText ?? ''));
  told.details = (await page.locator('[data-testid="details"]').innerText())
    .replace('Shown as the staged changes would leave it.', '').replace(/\s+/g, ' ').trim();
  await page.click('[data-testid="details"] [aria-label="Close the details"]');
  return told;
}

async function apply() {
  await page.click('[data-testid="apply"]');
  return h.result(page);
}

/** The first byte of the guest at `offset`, as the page shows it for `layer`. */
async function guestByte(layer, offset) {
  if (!(await page.locator('[data-testid="look-bytes"]').count())) {
    await page.click('[data-testid="lens-bytes"]');
    await page.waitForSelector('[data-testid="look-bytes"]');
  }
  await page.selectOption('[data-testid="look-layer"]', { label: layer });
  await page.selectOption('[data-testid="space"]', 'guest');
  // The same text twice would be no change.
  for (const to of [0, offset]) {
    await page.fill('[data-testid="goto"]', String(to));
    await page.press('[data-testid="goto"]', 'Enter');
    await page.waitForSelector(`[data-testid="hex"][data-start="${to}"]`);
  }
  await page.waitForFunction(() => document.querySelector('[data-testid="hex"] .hex__bytes')?.textContent.trim());
  const text = await page.locator('[data-testid="hex"] .hex__bytes').first().innerText();
  return Number.parseInt(text.replace(/\s/g, '').slice(0, 2), 16);
}

test('a commit and a rebase are shown, taken back, put back and applied', async () => {
  await chain();
  const files = hashes();
  assert.equal(await guestByte(SN1, 8 << 20), 0);

  // Staged: the links, the bytes and the sizes are as they would be, and the files as they were.
  await stage('commit', { top: SN2, base: SN1 });
  await h.waitForChain(page, { ...CHAIN, [SN3]: SN1 });
  assert.equal(await guestByte(SN1, 8 << 20), 0x33);
  assert.match(await status(), /1 change .* Nothing is written yet/);
  assert.equal((await h.nodes(page))[SN2].state, 'invalid');
  assert.equal(await page.locator('.badge--staged').count(), 2);
  await stage('pull', { top: SN3, base: BASE });
  await h.waitForChain(page, { ...CHAIN, [SN3]: BASE });
  assert.equal(await guestByte(SN3, 8 << 20), 0x33);
  assert.deepEqual(hashes(), files, 'nothing was written');

  // The keyboard takes back and puts back, outside of fields with an undo of their own.
  await page.keyboard.press('Control+z');
  await page.focus('[data-testid="clear"]');
  await page.keyboard.press('Control+z');
  await staged(1);
  await h.waitForChain(page, { ...CHAIN, [SN3]: SN1 });
  await page.focus('[data-testid="clear"]');
  await page.keyboard.press('Control+z');
  await staged(0);
  await h.waitForChain(page, CHAIN);
  assert.equal(await guestByte(SN1, 8 << 20), 0);
  assert.equal((await h.nodes(page))[SN2].state, 'ok');
  assert.equal(await count('staged-undone'), 2);
  await page.focus('[data-testid="clear"]');
  await page.keyboard.press('Control+Shift+z');
  await staged(1);
  await page.click('[data-testid="redo"]');
  await staged(2);
  await h.waitForChain(page, { ...CHAIN, [SN3]: BASE });
  assert.deepEqual(hashes(), files, 'nothing was written');

  const done = await apply();
  assert.equal(done.status, 'done', done.text);
  assert.match(done.text, /All 2 changes are in place/);
  await h.waitForChain(page, { ...CHAIN, [SN3]: BASE });
  assert.equal(h.backingOf(at(SN3)), BASE);
  for (const name of [BASE, SN1, SN3]) h.check(at(name));
  h.same(at(SN3), 'qcow2', at(`${SN3}.raw`));
  h.same(at(SN1), 'qcow2', at(`${SN2}.raw`));
  h.same(at(BASE), 'qcow2', at(`${BASE}.raw`));
  // What was shown is what there is.
  assert.equal(await guestByte(SN1, 8 << 20), 0x33);
  assert.equal(await page.locator('.badge--staged').count(), 0);
});

test('map, file on disk and details show what is there afterwards', async () => {
  await chain('-o', 'cluster_size=16k');
  await stage('commit', { top: SN2, base: BASE });
  await stage('rebase', { top: SN3, base: '' });
  const shown = await seen(SN3);
  const done = await apply();
  assert.equal(done.status, 'done', done.text);
  await page.click('[data-testid="staged-close"]');
  assert.deepEqual(await seen(SN3), shown);
  assert.match(shown.details, new RegExp(`File size [^\\n]*${h.fileSize(at(SN3))} bytes`));
  assert.match(shown.table, /sn3\.qcow2/);
});

test('what is staged is planned on: a layer is removed, then its neighbour', async () => {
  await chain('-o', 'cluster_size=4k');
  const files = hashes();
  await stage('remove', { top: SN2, method: '2' });
  await h.waitForChain(page, { ...CHAIN, [SN3]: SN1 });
  await stage('remove', { top: SN1, method: '2' });
  await h.waitForChain(page, { ...CHAIN, [SN2]: BASE, [SN3]: BASE });
  await stage('pull', { top: SN3, base: '' });
  await h.waitForChain(page, { ...CHAIN, [SN2]: BASE, [SN3]: '' });
  assert.deepEqual(hashes(), files);
  // Run would write now: it has to wait.
  await h.choose(page, 'commit', { top: SN1, base: BASE });
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  assert.ok(await page.isDisabled('[data-testid="run"]'));
  await page.click('[data-testid="cancel"]');
  const done = await apply();
  assert.equal(done.status, 'done', done.text);
  assert.equal(h.backingOf(at(SN3)), '');
  h.check(at(SN3));
  h.same(at(SN3), 'qcow2', at(`${SN3}.raw`));
  h.check(at(SN2));
  h.same(at(SN2), 'qcow2', at(`${SN2}.raw`));
  assert.deepEqual(hashes().slice(0, 2), files.slice(0, 2), 'base and sn1 only gave');
});

test('discarding leaves no trace', async () => {
  await chain();
  const files = hashes();
  await stage('commit', { top: SN3, base: BASE });
  assert.equal((await h.nodes(page))[SN1].state, 'invalid');
  await page.click('[data-testid="discard"]');
  await page.waitForSelector('[data-testid="staged"]', { state: 'detached' });
  await h.waitForChain(page, CHAIN);
  for (const name of NAMES) assert.equal((await h.nodes(page))[name].state, 'ok');
  assert.deepEqual(hashes(), files);
  // And an operation can be run again.
  await h.choose(page, 'pull', { top: SN3, base: SN1 });
  const done = await h.run(page);
  assert.equal(done.status, 'done', done.text);
  h.same(at(SN3), 'qcow2', at(`${SN3}.raw`));
});

test('a file that was changed meanwhile is noticed, and nothing is written', async () => {
  await chain();
  await stage('commit', { top: SN2, base: SN1 });
  await stage('pull', { top: SN3, base: BASE });
  await appendFile(at(SN1), Buffer.alloc(512));
  const files = hashes();
  const failed = await apply();
  assert.equal(failed.status, 'failed');
  assert.match(failed.text, /sn1\.qcow2 was changed by somebody else/);
  assert.match(failed.text, /Nothing was written/);
  assert.deepEqual(hashes(), files);
  await staged(2);
});

test('a new overlay is staged, changed and built upon before it is there', async () => {
  await chain();
  await page.goto(session.site.url);
  await page.waitForSelector('[data-testid="demo"]');
  const files = hashes();
  await h.drop(page, dir);
  await page.waitForSelector(`[data-testid="node"][data-name="${SN3}"]`);
  await h.choose(page, 'overlay', { top: SN3 });
  await page.fill('[data-testid="name"]', 'new.qcow2');
  await press('try');
  await staged(1);
  await page.waitForSelector('[data-testid="node"][data-name="new.qcow2"]');
  assert.equal((await h.nodes(page))['new.qcow2'].backing, SN3);
  assert.ok(!existsSync(at('new.qcow2')), 'it is not on the disk');
  // The form is gone; the keyboard's place is the panel.
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), 'staged');
  // A copy of it is what is shown.
  await page.locator('[data-testid="node"][data-name="new.qcow2"]').click();
  await page.waitForSelector('[data-testid="details"]');
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid="save-copy"]')]);
  await mkdir(join(dir, 'copy'));
  const copy = join(dir, 'copy', 'new.qcow2');
  await download.saveAs(copy);
  for (const name of NAMES) await cp(at(name), join(dir, 'copy', name));
  h.check(copy);
  assert.equal(h.backingOf(copy), SN3);
  h.same(copy, 'qcow2', at(`${SN3}.raw`));
  // The new layer takes part in what comes next.
  await stage('pull', { top: 'new.qcow2', base: SN1 });
  await stage('remove', { top: SN1, method: '1' });
  assert.equal((await h.nodes(page))['new.qcow2'].backing, BASE);
  assert.equal(await guestByte('new.qcow2', 8 << 20), 0x33);
  // Taken back, it is gone, and comes back with redo.
  for (let left = 2; left >= 0; left -= 1) {
    await page.click('[data-testid="undo"]');
    await staged(left);
  }
  await page.waitForSelector('[data-testid="node"][data-name="new.qcow2"]', { state: 'detached' });
  for (let there = 1; there <= 3; there += 1) {
    await page.click('[data-testid="redo"]');
    await staged(there);
  }
  assert.deepEqual(hashes(), files);
  assert.ok(!existsSync(at('new.qcow2')));
  const done = await apply();
  assert.equal(done.status, 'done', done.text);
  await page.waitForSelector('[data-testid="node"][data-name="new.qcow2"][data-state="ok"]');
  assert.equal(h.backingOf(at('new.qcow2')), BASE);
  h.check(at('new.qcow2'));
  h.same(at('new.qcow2'), 'qcow2', at(`${SN3}.raw`));
  // It is a file like any other now.
  await h.choose(page, 'pull', { top: 'new.qcow2', base: '' });
  const run = await h.run(page);
  assert.equal(run.status, 'done', run.text);
  h.same(at('new.qcow2'), 'qcow2', at(`${SN3}.raw`));
});

test('the first change that fails ends the applying, and the rest stays staged', async () => {
  await chain();
  await stage('commit', { top: SN2, base: SN1 });
  await stage('pull', { top: SN3, base: BASE });
  await stage('pull', { top: SN1, base: '' });
  // The third writer that is opened, the pull's, meets a full disk.
  const worker = page.workers()[0];
  await worker.evaluate(() => {
    const open = FileSystemFileHandle.prototype.createWritable;
    let left = 2;
    FileSystemFileHandle.prototype.createWritable = function (...options) {
      if (left === 0) throw new DOMException('full', 'QuotaExceededError');
      left -= 1;
      return open.apply(this, options);
    };
    globalThis.mend = () => { FileSystemFileHandle.prototype.createWritable = open; };
  });
  const failed = await apply();
  assert.equal(failed.status, 'failed');
  assert.match(failed.text, /In place: sn2\.qcow2 is merged into sn1\.qcow2/);
  await staged(2);
  // Shown is what is on the disk with the rest on top.
  await h.waitForChain(page, { [BASE]: '', [SN1]: '', [SN2]: SN1, [SN3]: BASE });
  assert.equal(h.backingOf(at(SN3)), SN1);
  assert.equal(h.backingOf(at(SN1)), BASE);
  for (const name of [BASE, SN1, SN3]) h.check(at(name));
  h.same(at(SN3), 'qcow2', at(`${SN3}.raw`));
  await worker.evaluate(() => globalThis.mend());
  await page.click('[data-testid="apply"]');
  await page.waitForSelector('[data-testid="result"][data-status="done"]');
  assert.equal(h.backingOf(at(SN3)), BASE);
  assert.equal(h.backingOf(at(SN1)), '');
  for (const name of [BASE, SN1, SN3]) h.check(at(name));
  h.same(at(SN3), 'qcow2', at(`${SN3}.raw`));
  h.same(at(SN1), 'qcow2', at(`${SN2}.raw`));
});

test('files that cannot be written are offered as they would be', async () => {
  const locked = await h.start({ write: 2 });
  const usual = page;
  try {
    page = locked.page;
    await chain();
    const files = hashes();
    await stage('commit', { top: SN2, base: SN1 });
    await stage('pull', { top: SN3, base: BASE });
    const done = await apply();
    assert.equal(done.status, 'done', done.text);
    const saved = join(dir, 'saved');
    await mkdir(saved);
    await cp(at(BASE), join(saved, BASE));
    const buttons = page.locator('[data-testid="save"]');
    assert.deepEqual((await buttons.evaluateAll((all) => all.map((b) => b.dataset.name))).sort(), [SN1, SN3]);
    for (const button of await buttons.all()) {
      const [download] = await Promise.all([page.waitForEvent('download'), button.click()]);
      await download.saveAs(join(saved, await button.getAttribute('data-name')));
    }
    for (const [name, raw] of [[SN1, SN2], [SN3, SN3]]) {
      h.check(join(saved, name));
      assert.equal(h.backingOf(join(saved, name)), BASE);
      h.same(join(saved, name), 'qcow2', at(`${raw}.raw`));
    }
    assert.deepEqual(hashes(), files, 'the files given are as they were');
    await staged(2);
  } finally {
    page = usual;
    await locked.close();
  }
});

test('every kind of change can be staged, one upon the other', async () => {
  await chain();
  // A leak for the repair: the refcount of a cluster that nobody uses.
  const file = await open(at(BASE), 'r+');
  const { buffer } = await file.read(Buffer.alloc(72), 0, 72, 0);
  const table = Number(buffer.readBigUInt64BE(48));
  const block = Number((await file.read(Buffer.alloc(8), 0, 8, table)).buffer.readBigUInt64BE(0));
  await file.write(Buffer.from([0, 1]), 0, 2, block + 2 * 100);
  await file.truncate(101 * 65536);
  await file.close();
  assert.throws(() => h.check(at(BASE)), 'there is a leak');
  await page.goto(session.site.url);
  await page.waitForSelector('[data-testid="demo"]');
  await h.drop(page, dir);
  await page.waitForSelector(`[data-testid="node"][data-name="${SN3}"]`);
  const files = hashes();
  const steps = [
    ['repair', { top: BASE }, {}],
    ['snapshot', { top: SN3 }, { 'snapshot-name': 'then' }],
    ['resize', { top: SN3 }, { size: '40M' }],
    ['amend', { top: SN3 }, { amendment: 'lazy_refcounts=on' }],
    ['bitmap', { top: SN3 }, { action: 'add', bitmap: 'seen', granularity: '64K' }],
    ['export', { top: SN3 }, { name: 'packed.qcow2', compress: 'zlib' }],
    ['export', { top: SN2 }, { name: 'flat.img', format: 'raw' }],
    ['create', {}, { name: 'blank.img', format: 'raw', size: '5M' }],
    ['delete-snapshot', { top: SN3 }, { snapshot: '1' }],
    ['go-back', { top: SN3, base: SN1 }, { name: 'fresh.qcow2' }],
  ];
  for (const [nth, [op, layers, fields]] of steps.entries()) {
    await h.choose(page, op, layers);
    await fill(fields);
    await press('try');
    await staged(nth + 1);
  }
  for (const name of ['packed.qcow2', 'flat.img', 'blank.img', 'fresh.qcow2']) {
    await page.waitForSelector(`[data-testid="node"][data-name="${name}"]`);
    assert.ok(!existsSync(at(name)), name);
  }
  assert.equal(await guestByte('flat.img', 8 << 20), 0x33);
  assert.equal(await guestByte('packed.qcow2', 12 << 20), 0x44);
  assert.deepEqual(hashes(), files);
  const done = await apply();
  assert.equal(done.status, 'done', done.text);
  for (const name of [...NAMES, 'packed.qcow2', 'fresh.qcow2']) h.check(at(name));
  const info = JSON.parse(h.qemuImg('info', '--output=json', at(SN3)));
  assert.equal(info['virtual-size'], 40 << 20);
  assert.equal(info.snapshots, undefined);
  assert.equal(info['format-specific'].data['lazy-refcounts'], true);
  assert.equal(info['format-specific'].data.bitmaps[0].name, 'seen');
  h.same(at('packed.qcow2'), 'qcow2', at(`${SN3}.raw`));
  h.same(at('flat.img'), 'raw', at(`${SN2}.raw`));
  h.same(at('fresh.qcow2'), 'qcow2', at(`${SN1}.raw`));
  assert.equal(h.backingOf(at('fresh.qcow2')), SN1);
  assert.equal(h.fileSize(at('blank.img')), 5 << 20);
});

test('the demo chain can be staged and applied inside the browser', async () => {
  await page.click('[data-testid="demo"]');
  const names = ['RootBase', 'Snap-1', 'Snap-2', 'Snap-3', 'Snap-4'].map((n) => `${n}.qcow2`);
  const links = Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? '']));
  await h.waitForChain(page, links);
  await stage('commit', { top: names[3], base: names[0] });
  await stage('overlay', { top: names[4] });
  const made = (await page.$$eval('[data-testid="node"]', (all) => all.map((n) => n.dataset.name)))
    .find((name) => !names.includes(name));
  await stage('pull', { top: made, base: names[0] });
  const done = await apply();
  assert.equal(done.status, 'done', done.text);
  await h.waitForChain(page, { ...links, [names[4]]: names[0], [made]: names[0] });
  await page.locator(`[data-testid="node"][data-name="${names[0]}"]`).click();
  const save = async (name) => {
    await page.locator(`[data-testid="node"][data-name="${name}"]`).click();
    await page.waitForSelector(`[data-testid="details"][aria-label*="${name}"]`);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid="save-copy"]')]);
    await download.saveAs(at(name));
  };
  for (const name of [names[0], names[4], made]) await save(name);
  h.check(at(made));
  assert.equal(h.backingOf(at(made)), names[0]);
  h.qemuImg('compare', '-f', 'qcow2', '-F', 'qcow2', at(made), at(names[4]));
});
