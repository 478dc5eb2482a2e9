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
  await page.click('[data-testid="map-as-table"]');
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
  await page.mouse.move(box.x + box.width * 0.5, box.y + 10);
  await page.keyboard.press('+');
  await page.waitForFunction(() => document.querySelector('.look__range').textContent.startsWith('4 MiB – 12 MiB'));
  await page.keyboard.press('Home');
  await page.waitForFunction(() => document.querySelector('.look__range').textContent.startsWith('0 B – 16 MiB'));
});

test('the map tells of hidden data where it is, by keyboard alone, down to one cluster', async () => {
  await pair();
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await page.keyboard.press('m');
  await ready('map');
  await page.focus('[data-testid="map-canvas"]');
  // From the middle of the disk to 3 MiB, where top hides base.
  const told = () => page.locator('[data-testid="map-at"]').innerText();
  await page.keyboard.press('ArrowLeft');
  const guest = async () => Number(/guest (0x[0-9a-f]+)/.exec(await told())[1]);
  for (let n = 0; n < 200 && (await guest()) > (3 << 20); n += 1) await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowDown');
  await page.waitForFunction(() => /base\.qcow2: hidden data · here data of base\.qcow2, at 0x[0-9a-f]+ of its file, refcount 1 · the guest reads data of top\.qcow2/
    .test(document.querySelector('[data-testid="map-at"]').textContent));
  // The hidden cluster is where qemu-img sees it in base.
  const offset = await guest();
  const [entry] = JSON.parse(h.qemuImg('map', '--output=json', at('base.qcow2'))).filter((e) => e.data);
  const shown = Number(/here data of base\.qcow2, at (0x[0-9a-f]+)/.exec(await told())[1]);
  assert.equal(shown, entry.offset + offset - entry.start);
  for (let n = 0; n < 40; n += 1) await page.keyboard.press('+');
  await page.waitForFunction(() => document.querySelector('.look__range').textContent.includes('(512 B)'));
  assert.equal(await guest(), offset, 'zooming leaves the cursor where it is');
  // Enter leads to the bytes.
  await page.keyboard.press('Enter');
  await page.waitForSelector(`[data-testid="hex"][data-start="${Math.floor(offset / 16) * 16}"]`);
});

test('the runs of the map are those of qemu-img map', async () => {
  await pair();
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -c -P 3 8M 64k', 'write -z 9M 128k');
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await page.click('[data-name="top.qcow2"]');
  await lens('map');
  await ready('map');
  await page.click('[data-testid="map-as-table"]');
  await page.waitForSelector('[data-testid="map-runs"]');
  const names = ['top.qcow2', 'base.qcow2'];
  const expected = JSON.parse(h.qemuImg('map', '--output=json', at('top.qcow2'))).map((e) => [
    `0x${e.start.toString(16)}`,
    names[e.depth],
    !e.present ? 'no layer has it: zeros' : e.compressed ? 'compressed data' : e.data ? 'data' : 'zeros',
    e.offset === undefined ? '' : `0x${e.offset.toString(16)}`,
  ]);
  const rows = await page.$$eval('[data-testid="map-runs"] tbody tr', (all) =>
    all.map((row) => [...row.children].map((cell) => cell.textContent.trim())).map(([at, , layer, what, host]) => [at, layer, what, host]));
  assert.deepEqual(rows, expected);
  // A run zooms the map to itself.
  await page.getByRole('button', { name: 'Zoom to 0x200000' }).click();
  await page.waitForFunction(() => document.querySelector('.look__range').textContent.startsWith('2 MiB – 6 MiB'));
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
  // The finding is shown where it is,
  await page.click('[data-testid="finding-on-map"]');
  await page.waitForFunction(() => /byte 0x460000 · leaked, refcount 1 · Leaked cluster 70/.test(document.querySelector('[data-testid="disk-at"]').textContent));
  // the table says the same,
  await page.click('[data-testid="disk-as-table"]');
  await page.waitForSelector('[data-testid="disk-owners"]');
  const owners = await page.$$eval('[data-testid="disk-owners"] tbody tr', (rows) =>
    rows.map((row) => [...row.children].map((cell) => cell.textContent.trim())));
  assert.ok(owners.some((row) => row.join() === '0x460000,64 KiB,leaked'), JSON.stringify(owners));
  assert.equal(owners[0].join(), '0x0,64 KiB,header');
  // and it leads to its bytes.
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

test('following a pointer by a click on it can be taken back, and leads to the guest and back', async () => {
  await pair();
  await h.drop(page, [at('top.qcow2'), at('base.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await page.click('[data-name="base.qcow2"]');
  await lens('bytes');
  await page.selectOption('[data-testid="space"]', 'host');
  const start = (n) => page.waitForSelector(`[data-testid="hex"][data-start="${n}"]`);
  const word = async (offset) => {
    const file = await open(at('base.qcow2'));
    const { buffer } = await file.read(Buffer.alloc(8), 0, 8, offset);
    await file.close();
    return Number(buffer.readBigUInt64BE(0) & 0x00fffffffffffe00n);
  };
  const l1 = await word(40);
  const l2 = await word(l1);
  const data = await word(l2);
  for (const to of [l1, l2, data]) {
    await page.locator(`[data-testid="hex"] [data-target="${to}"]`).first().click();
    await start(to);
  }
  // The data is guest byte 0, and from there one is led back to it.
  await page.click('[data-testid="to-guest"]');
  await start(0);
  assert.equal(await page.inputValue('[data-testid="space"]'), 'guest');
  await page.click('[data-testid="to-host"]');
  await start(data);
  for (const to of [0, data, l2, l1, 0]) {
    await page.click('[data-testid="bytes-back"]');
    await start(to);
  }
  assert.ok(await page.isDisabled('[data-testid="bytes-back"]'));
  await page.click('[data-testid="bytes-forward"]');
  await start(l1);
  await page.focus('[data-testid="hex"]');
  await page.keyboard.press('Backspace');
  await start(0);
});

test('searching goes both ways, tells how far it is, and can be stopped', async () => {
  h.qemuImg('create', '-q', '-f', 'raw', at('disk.raw'), '512M');
  const places = [5 << 20, (200 << 20) + 3, 400 << 20];
  const file = await open(at('disk.raw'), 'r+');
  for (const place of places) await file.write(Buffer.from('needle'), 0, 6, place);
  await file.close();
  await h.drop(page, [at('disk.raw')]);
  await h.waitForChain(page, { 'disk.raw': '' });
  await lens('bytes');
  const screen = (n) => page.waitForSelector(`[data-testid="hex"][data-start="${Math.floor(n / 16) * 16}"]`);
  await page.fill('[data-testid="needle"]', 'needle');
  for (const place of places) {
    await page.press('[data-testid="needle"]', 'Enter');
    await screen(place);
  }
  for (const place of [places[1], places[0]]) {
    await page.click('[data-testid="find-back"]');
    await screen(place);
  }
  await page.click('[data-testid="find-back"]');
  await page.waitForFunction(() => document.querySelector('[data-testid="bytes-at"]').textContent.includes('Not found from here back to the start'));
  // Zeros are everywhere but have to be read: a search for something among them takes a while.
  await page.fill('[data-testid="needle"]', '0x00 01 02 03 04 05');
  await page.click('[data-testid="find"]');
  await page.waitForFunction(() => /searching: [1-9]\d? %/.test(document.querySelector('[data-testid="bytes-at"]').textContent));
  await page.click('[data-testid="stop-finding"]');
  await page.waitForSelector('[data-testid="finding"]', { state: 'detached' });
  assert.match(await page.locator('[data-testid="bytes-at"]').innerText(), /Stopped/);
});

test('differences between two layers are walked both ways', async () => {
  await pair();
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 9 12M 512', 'write -P 1 3M 64k');
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await page.click('[data-name="top.qcow2"]');
  await lens('bytes');
  await page.selectOption('[data-testid="beside"]', { label: 'beside base.qcow2' });
  const screen = (n) => page.waitForSelector(`[data-testid="hex"][data-start="${n}"]`);
  // What top has changed: zeros from 1 MiB on run into its data, which is as before at 3 MiB.
  for (const place of [1 << 20, (3 << 20) + 65536, 12 << 20]) {
    await page.click('[data-testid="differ"]');
    await screen(place);
  }
  await page.click('[data-testid="differ"]');
  await page.waitForFunction(() => document.querySelector('[data-testid="bytes-at"]').textContent.includes('No difference from here to the end'));
  for (const place of [(3 << 20) + 65536, 1 << 20]) {
    await page.click('[data-testid="differ-back"]');
    await screen(place);
  }
  const [mine, theirs] = await page.$$eval('.hex__row:first-child .hex__bytes', (all) => all.map((e) => e.textContent.slice(0, 4)));
  assert.deepEqual([mine, theirs], ['0000', '0101']);
});

test('an address leads back to the layer, the view and the place', async () => {
  await pair();
  const files = [at('base.qcow2'), at('top.qcow2')];
  const tree = { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' };
  await h.drop(page, files);
  await h.waitForChain(page, tree);
  await page.click('[data-name="base.qcow2"]');
  await lens('bytes');
  await page.selectOption('[data-testid="space"]', 'host');
  await page.fill('[data-testid="goto"]', '0x30000');
  await page.press('[data-testid="goto"]', 'Enter');
  await page.click('[data-testid="copy-link"]');
  await page.waitForFunction(() => document.querySelector('[data-testid="link-copied"]').textContent !== '');
  const address = page.url();
  assert.match(address, /#\/\?at=0x30000&in=file&layer=base\.qcow2&look=bytes$/);
  await page.goto('about:blank');
  await page.goto(address);
  await h.drop(page, files);
  await h.waitForChain(page, tree);
  await page.waitForSelector(`[data-testid="hex"][data-start="${0x30000}"]`);
  assert.equal(await page.inputValue('[data-testid="space"]'), 'host');
  assert.equal(await page.locator('[data-testid="look-layer"] option:checked').innerText(), 'base.qcow2');
  // An address pasted while the files are open works, too.
  await page.evaluate(() => { location.hash = '#/?layer=top.qcow2&look=map&from=0x200000&to=0x400000'; });
  await page.waitForFunction(() => document.querySelector('.look__range')?.textContent.startsWith('2 MiB – 4 MiB'));
  assert.equal(await page.locator('[data-testid="look-layer"] option:checked').innerText(), 'top.qcow2');
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
  // Zooming and dragging: frames come as they should, and nothing takes long.
  const box = await page.locator('[data-testid="map-canvas"]').boundingBox();
  await page.evaluate(() => {
    window.frames_ = [];
    let last = performance.now();
    const tick = (now) => { window.frames_.push(now - last); last = now; window.ticking = requestAnimationFrame(tick); };
    window.ticking = requestAnimationFrame(tick);
  });
  await page.mouse.move(box.x + box.width / 2, box.y + 100);
  await page.keyboard.down('Control');
  for (let n = 0; n < 10; n += 1) await page.mouse.wheel(0, -100);
  await page.keyboard.up('Control');
  await page.mouse.down();
  for (let n = 0; n < 60; n += 1) await page.mouse.move(box.x + box.width / 2 - n * 5, box.y + 100);
  await page.mouse.up();
  await ready('map');
  const frames = (await page.evaluate(() => { cancelAnimationFrame(window.ticking); return window.frames_; })).sort((a, b) => a - b);
  const longest = Math.max(0, ...(await page.evaluate(() => window.longTasks)));
  const median = frames[Math.floor(frames.length / 2)];
  console.log(`figure: a map of 1 TiB, 32 layers: longest task on the page ${Math.round(longest)} ms, half of the frames within ${median.toFixed(1)} ms`);
});
