// The report on all files says what qemu-img says, and no name in it does harm.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
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
const info = (name, ...more) => JSON.parse(h.qemuImg('info', '--output=json', ...more, at(name)));

/** Clicks, and returns the name and the text of the file that the browser saves. */
async function saved(button) {
  const downloading = page.waitForEvent('download');
  await page.click(`[data-testid="${button}"]`);
  const download = await downloading;
  await page.waitForSelector('[data-testid="report-progress"]', { state: 'detached' });
  return { name: download.suggestedFilename(), text: await readFile(await download.path(), 'utf8') };
}

const EVIL = '<img src=x onerror=alert(1)>.qcow2';

/** base <- mid <- EVIL, a raw disk, and an overlay whose backing file is not given. */
async function makeFiles() {
  h.qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=32k,lazy_refcounts=on', at('base.qcow2'), '64M');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 16M', 'write -z 20M 1M', 'write -P 3 33M 96k');
  h.qemuImg('snapshot', '-c', 'before "it" \\ <b>', at('base.qcow2'));
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('mid.qcow2'), '80M');
  h.qemuIo(at('mid.qcow2'), 'qcow2', 'write -P 2 8M 4M');
  h.qemuImg('bitmap', '--add', '-g', '128k', at('mid.qcow2'), 'changes');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', '-b', 'mid.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 9 70M 1M');
  await rename(at('top.qcow2'), at(EVIL));
  h.qemuImg('create', '-q', '-f', 'raw', at('disk.raw'), '3M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', 'gone.qcow2', '-F', 'qcow2', at('lost.qcow2'), '10M');
  const backing = { 'base.qcow2': '', 'mid.qcow2': 'base.qcow2', [EVIL]: 'mid.qcow2', 'disk.raw': '', 'lost.qcow2': 'gone.qcow2' };
  await h.drop(page, Object.keys(backing).map(at));
  await h.waitForChain(page, backing);
  return Object.keys(backing);
}

test('the JSON report says of every file what qemu-img says', async () => {
  const names = await makeFiles();
  const { name, text } = await saved('export-json');
  assert.match(name, /^backchain-report-\d{4}-\d\d-\d\d\.json$/);
  const report = JSON.parse(text);
  assert.equal(report.backchain_report, 1);
  const images = Object.fromEntries(report.images.map((image) => [image.filename, image]));
  assert.deepEqual(Object.keys(images).sort(), [...names].sort());
  for (const name of names) {
    const said = info(name, ...(name === 'disk.raw' ? ['-f', 'raw'] : []));
    const image = images[name];
    for (const field of ['format', 'virtual-size', 'backing-filename', 'backing-filename-format', 'cluster-size']) {
      assert.equal(image[field], said[field], `${name}: ${field}`);
    }
    assert.equal(image['file-size'], h.fileSize(at(name)), name);
    if (said.format !== 'qcow2') continue;
    assert.equal(image['dirty-flag'], said['dirty-flag'], name);
    const facts = image['format-specific'].data;
    for (const [field, value] of Object.entries(said['format-specific'].data)) {
      assert.deepEqual(facts[field], value, `${name}: ${field}`);
    }
    const snapshots = (list) => (list ?? []).map((one) => [one.id, one.name, one['vm-state-size'], one['date-sec']]);
    assert.deepEqual(snapshots(image.snapshots), snapshots(said.snapshots), name);
  }
  assert.equal(images[EVIL]['backing-image'], 'mid.qcow2');
  assert.equal(images['lost.qcow2'].state, 'missing');
  assert.match(images['lost.qcow2'].reason, /gone\.qcow2/);
  // The base's own map, in pieces as small as may be: each place says the same.
  const base = images['base.qcow2'];
  assert.equal(base.map.truncated, false);
  const runs = (list) => {
    const joined = [];
    for (const run of list) {
      const last = joined.at(-1);
      const [data, zero] = [run.data, run.data ? false : run.zero || !run.present];
      if (last?.data === data && last.zero === zero) last.length += run.length;
      else joined.push({ start: run.start, length: run.length, data, zero });
    }
    return joined;
  };
  assert.deepEqual(runs(base.map.runs), runs(JSON.parse(h.qemuImg('map', '--output=json', at('base.qcow2')))));
  const data = JSON.parse(h.qemuImg('map', '--output=json', at('base.qcow2'))).filter((run) => run.data);
  assert.equal(base.statistics.data, data.reduce((sum, run) => sum + run.length, 0));
  const sum = (of) => of.data + of.compressed + of.zero + of.unallocated;
  for (const image of report.images) {
    if (image.statistics) assert.equal(sum(image.statistics), image['virtual-size'], image.filename);
  }
});

test('the report to read runs nothing, whatever files are called', async () => {
  const names = await makeFiles();
  const { name, text } = await saved('export-html');
  assert.match(name, /\.html$/);
  assert.doesNotMatch(text, /<script|<img|<b>|https?:/i);
  const file = at('report.html');
  await writeFile(file, text);
  const reader = await session.context.newPage();
  const dialogs = [];
  const loaded = [];
  reader.on('dialog', (dialog) => { dialogs.push(dialog.message()); dialog.dismiss(); });
  reader.on('request', (request) => loaded.push(request.url()));
  for (const colorScheme of ['light', 'dark']) {
    await reader.emulateMedia({ colorScheme });
    for (const width of [1280, 390]) {
      await reader.setViewportSize({ width, height: 860 });
      await reader.goto(pathToFileURL(file).href);
      const wide = await reader.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${wide} wide in ${width}`);
      if (process.env.BACKCHAIN_SHOTS) await reader.screenshot({ path: `${process.env.BACKCHAIN_SHOTS}/${colorScheme}-${width}.png` });
    }
  }
  assert.deepEqual((await reader.$$eval('h2', (all) => all.map((one) => one.textContent))).sort(), [...names].sort());
  assert.equal(await reader.locator('.bar').count(), names.length);
  const lost = await reader.locator('section', { hasText: 'lost.qcow2' }).last().innerText();
  assert.match(lost, /Backing file missing/);
  assert.deepEqual(dialogs, []);
  assert.deepEqual([...new Set(loaded)], [pathToFileURL(file).href]);
  await reader.close();
});

test('a map of many runs is cut short, and says so', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', at('many.qcow2'), '16M');
  const writes = Array.from({ length: 10_100 }, (_, n) => `write -q -P 1 ${n * 1024} 512`);
  for (let n = 0; n < writes.length; n += 1000) h.qemuIo(at('many.qcow2'), 'qcow2', ...writes.slice(n, n + 1000));
  await h.drop(page, [at('many.qcow2')]);
  await h.waitForChain(page, { 'many.qcow2': '' });
  const { images: [image] } = JSON.parse((await saved('export-json')).text);
  assert.equal(image.map.truncated, true);
  assert.equal(image.map.runs.length, 10_000);
  assert.equal(image.statistics.data, 10_100 * 512);
});

test('the buttons are within a narrow page', async () => {
  await page.setViewportSize({ width: 390, height: 800 });
  await page.click('[data-testid="demo"]');
  await page.waitForSelector('[data-testid="export-json"]');
  for (const id of ['open-files', 'export-json', 'export-html', 'clear', 'show-keys']) {
    const box = await page.locator(`[data-testid="${id}"]`).boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 390, id);
  }
  if (process.env.BACKCHAIN_SHOTS) await page.screenshot({ path: `${process.env.BACKCHAIN_SHOTS}/page-390.png` });
  await page.setViewportSize({ width: 1280, height: 860 });
  if (process.env.BACKCHAIN_SHOTS) await page.screenshot({ path: `${process.env.BACKCHAIN_SHOTS}/page-1280.png` });
});
