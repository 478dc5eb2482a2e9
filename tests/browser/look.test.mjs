// Looking into images on the page: the cluster map, the file on disk, and bytes.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdtemp, open, rm } from 'node:fs/promises';
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

/** Two layers: base has 4 MiB of data, top hides half of it and adds 2 MiB. */
async function pair(...more) {
  h.qemuImg('create', '-q', '-f', 'qcow2', ...more, at('base.qcow2'), '16M');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 4M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 2 2M 4M');
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -z 1M 1M');
}

async function lens(name) {
  await page.click(`[data-testid="lens-${name}"]`);
  await page.waitForSelector(`[data-testid="look-${name}"]`);
}

const ready = (name) => page.waitForSelector(`[data-testid="${name}-canvas"][data-ready="true"]`);

/** The rows of the map's table: name -> cells. */
async function table() {
  await page.locator('[data-testid="look-map"] summary').click();
  return Object.fromEntries(
    await page.$$eval('[data-testid="map-table"] tbody tr', (rows) =>
      rows.map((row) => [row.querySelector('th').textContent, [...row.querySelectorAll('td')].map((d) => d.textContent)]),
    ),
  );
}

test('the cluster map tells what each layer holds and what is hidden', async () => {
  await pair();
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await lens('map');
  await ready('map');
  // data, compressed, zeros, hidden data, hidden zeros, shared
  assert.deepEqual(await table(), {
    'top.qcow2': ['4 MiB', '0 B', '1 MiB', '0 B', '0 B', '0 B'],
    'base.qcow2': ['1 MiB', '0 B', '0 B', '3 MiB', '0 B', '0 B'],
  });
  // Pointing tells the place: the right edge of the first eighth is at 2 MiB.
  const box = await page.locator('[data-testid="map-canvas"]').boundingBox();
  await page.mouse.move(box.x + box.width * 0.2, box.y + 10);
  await page.waitForFunction(() => /the guest reads data of top\.qcow2, at 0x[0-9a-f]+ of its file, refcount 1/
    .test(document.querySelector('[data-testid="map-at"]').textContent));
  await page.mouse.move(box.x + box.width * 0.01, box.y + 40);
  await page.waitForFunction(() => /base\.qcow2: data · the guest reads data of base\.qcow2/
    .test(document.querySelector('[data-testid="map-at"]').textContent));
  // Something is drawn: the canvas is not of one colour.
  const colours = await page.$eval('[data-testid="map-canvas"]', (canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 10, canvas.width, 1);
    return new Set(Array.from({ length: canvas.width }, (_, n) => data.slice(n * 4, n * 4 + 4).join())).size;
  });
  assert.ok(colours >= 3, `${colours} colours`);
  // Keys zoom and move.
  await page.focus('[data-testid="map-canvas"]');
  await page.keyboard.press('+');
  await page.waitForFunction(() => document.querySelector('.look__range').textContent.startsWith('4 MiB – 12 MiB'));
  await page.keyboard.press('Home');
  await page.waitForFunction(() => document.querySelector('.look__range').textContent.startsWith('0 B – 16 MiB'));
});

test('clusters shared with a snapshot are marked', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('one.qcow2'), '16M');
  h.qemuIo(at('one.qcow2'), 'qcow2', 'write -P 1 0 4M');
  h.qemuImg('snapshot', '-c', 'before', at('one.qcow2'));
  h.qemuIo(at('one.qcow2'), 'qcow2', 'write -P 2 0 1M');
  await h.drop(page, [at('one.qcow2')]);
  await h.waitForChain(page, { 'one.qcow2': '' });
  await lens('map');
  await ready('map');
  assert.deepEqual((await table())['one.qcow2'], ['4 MiB', '0 B', '0 B', '0 B', '0 B', '3 MiB']);
  await lens('disk');
  await ready('disk');
  const totals = await page.locator('[data-testid="disk-totals"]').innerText();
  assert.match(totals, /only in snapshots: 1\.\d MiB/);
  assert.match(totals, /\bdata: 4 MiB/);
});

test('the file on disk shows owners and what the check found', async () => {
  await pair();
  // Raise the refcount of an unused cluster: a leak; and drop that of the L1 table: a danger.
  const file = await open(at('base.qcow2'), 'r+');
  const { buffer } = await file.read(Buffer.alloc(72), 0, 72, 0);
  const table = Number(buffer.readBigUInt64BE(48));
  const block = Number((await file.read(Buffer.alloc(8), 0, 8, table)).buffer.readBigUInt64BE(0));
  await file.write(Buffer.from([0, 1]), 0, 2, block + 2 * 70);
  await file.truncate(72 * 65536);
  await file.close();
  await h.drop(page, [at('base.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '' });
  await lens('disk');
  await ready('disk');
  await page.waitForSelector('[data-testid="findings"]');
  assert.match(await page.locator('[data-testid="findings"]').innerText(), /Leaked cluster 70 refcount=1 reference=0/);
  assert.match(await page.locator('[data-testid="disk-totals"]').innerText(), /leaked: 64 KiB/);
  // The finding leads to its bytes.
  await page.locator('[data-testid="findings"] button').first().click();
  await page.waitForSelector(`[data-testid="hex"][data-start="${70 * 65536}"]`);
});

test('bytes are named, followed from table to table, searched and compared', async () => {
  await pair();
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await lens('bytes');
  await page.selectOption('[data-testid="look-layer"]', { label: 'top.qcow2' });
  await page.selectOption('[data-testid="space"]', 'host');
  const fields = page.locator('[data-testid="fields"]');
  await fields.getByText('cluster_bits').waitFor();
  assert.match(await fields.innerText(), /clusters of 65536 bytes/);
  await fields.locator('tr', { hasText: 'backing_file_offset' }).locator('[data-testid="follow"]').click();
  await fields.getByText('backing file name', { exact: true }).waitFor();
  assert.match(await fields.innerText(), /backing file name\s*base\.qcow2/);
  await page.focus('[data-testid="hex"]');
  await page.keyboard.press('Home');

  // Header -> L1 table -> L2 table -> data.
  await fields.locator('tr', { hasText: 'l1_table_offset' }).locator('[data-testid="follow"]').click();
  await fields.getByText('L1 entry 0', { exact: true }).waitFor();
  await fields.locator('tr', { hasText: 'L1 entry 0' }).locator('[data-testid="follow"]').click();
  await fields.getByText('L2 entry 16', { exact: true }).waitFor();
  assert.match(await fields.locator('tr', { hasText: 'L2 entry 16' }).innerText(), /guest 0x100000: reads as zeros/);
  await fields.locator('tr', { hasText: 'L2 entry 32' }).locator('[data-testid="follow"]').click();
  await page.waitForFunction(() => /02 ?02/.test(document.querySelector('[data-testid="hex"] .hex__bytes')?.textContent.replace(/\s/g, '').slice(0, 4).replace(/(..)/g, '$1 ')));

  // The guest's bytes, searched: the first 02 is at 2 MiB.
  await page.selectOption('[data-testid="space"]', 'guest');
  await page.fill('[data-testid="needle"]', '0x02');
  await page.click('[data-testid="find"]');
  await page.waitForSelector(`[data-testid="hex"][data-start="${2 << 20}"]`);
  // And beside base, everything there differs.
  await page.selectOption('[data-testid="beside"]', { label: 'beside base.qcow2' });
  await page.waitForFunction(() => document.querySelector('[data-testid="bytes-at"]').textContent.includes('384 bytes differ here'));
  await page.fill('[data-testid="needle"]', 'no such words');
  await page.click('[data-testid="find"]');
  await page.waitForFunction(() => document.querySelector('[data-testid="bytes-at"]').textContent.includes('Not found'));
  await page.fill('[data-testid="goto"]', '512k');
  await page.press('[data-testid="goto"]', 'Enter');
  await page.waitForSelector(`[data-testid="hex"][data-start="${512 << 10}"]`);
});

test('a map of a disk of 1 TiB in 32 layers keeps the page free', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('l0.qcow2'), '1T');
  h.qemuIo(at('l0.qcow2'), 'qcow2', 'write -P 1 0 1M');
  for (let n = 1; n < 32; n += 1) {
    h.qemuImg('create', '-q', '-f', 'qcow2', '-b', `l${n - 1}.qcow2`, '-F', 'qcow2', at(`l${n}.qcow2`));
    const writes = Array.from({ length: 16 }, (_, i) => `write -P ${n} ${(i * 61 + n * 7) % 1000}G 256k`);
    writes.forEach((write) => h.qemuIo(at(`l${n}.qcow2`), 'qcow2', write));
  }
  await h.drop(page, Array.from({ length: 32 }, (_, n) => at(`l${n}.qcow2`)));
  await page.waitForFunction(() => document.querySelectorAll('[data-testid="node"]').length === 32);
  await page.click('[data-name="l31.qcow2"]');
  await page.evaluate(() => {
    window.longTasks = [];
    new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((e) => e.duration)))
      .observe({ entryTypes: ['longtask'] });
  });
  await lens('map');
  await ready('map');
  assert.equal(Object.keys(await table()).length, 32);
  const longest = Math.max(0, ...(await page.evaluate(() => window.longTasks)));
  console.log(`# a map of 1 TiB, 32 layers: longest task on the page ${Math.round(longest)} ms`);
});
