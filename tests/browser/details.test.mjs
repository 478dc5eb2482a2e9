// What a layer says about itself, and that damaged files do no more than say so.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdtemp, open, rm, truncate } from 'node:fs/promises';
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

/** The facts under a heading of the details: name -> value. */
const facts = async (title) => {
  await page.waitForFunction((wanted) => [...document.querySelectorAll('[data-testid="details"] .facts h3')]
    .some((heading) => heading.textContent === wanted), title);
  return page.$$eval('[data-testid="details"] .facts', (all, wanted) => {
    const section = all.find((one) => one.querySelector('h3').textContent === wanted);
    const names = [...section.querySelectorAll('dt')].map((e) => e.textContent);
    const values = [...section.querySelectorAll('dd')].map((e) => e.textContent);
    return Object.fromEntries(names.map((name, n) => [name, values[n]]));
  }, title);
};

test('the statistics tell what all overlays hide of a base', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), '64M');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 16M');
  const ranges = { a: [0, 8], b: [4, 12] };
  for (const [name, [start, end]] of Object.entries(ranges)) {
    h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at(`${name}.qcow2`));
    h.qemuIo(at(`${name}.qcow2`), 'qcow2', `write -P 2 ${start}M ${end - start}M`);
  }
  // What each guest reads of base, as qemu-img sees it: the union is what is unique.
  const read = new Set();
  for (const name of Object.keys(ranges)) {
    for (const run of JSON.parse(h.qemuImg('map', '--output=json', at(`${name}.qcow2`)))) {
      for (let mib = run.start; run.depth === 1 && run.data && mib < run.start + run.length; mib += 1 << 20) read.add(mib);
    }
  }
  await h.drop(page, ['base', 'a', 'b'].map((name) => at(`${name}.qcow2`)));
  await h.waitForChain(page, { 'base.qcow2': '', 'a.qcow2': 'base.qcow2', 'b.qcow2': 'base.qcow2' });
  await page.click('[data-name="base.qcow2"]');
  const found = await facts('Statistics');
  assert.equal(found.Data, '16 MiB');
  assert.equal(found['Data that a guest reads'], `${read.size} MiB`);
  assert.equal(found['Data hidden by all overlays'], `${16 - read.size} MiB`);
  assert.equal(found['This layer could give back'], '4 MiB');
  await page.click('[data-name="a.qcow2"]');
  assert.equal((await facts('Statistics'))['This layer could give back'], 'nothing');
});

test('damaged files give one clear message in every view, and no view hangs', async () => {
  const word = async (file, offset) => {
    const opened = await open(file);
    const { buffer } = await opened.read(Buffer.alloc(8), 0, 8, offset);
    await opened.close();
    return Number(buffer.readBigUInt64BE(0) & 0x00fffffffffffe00n);
  };
  const put = async (file, offset, value) => {
    const opened = await open(file, 'r+');
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(value);
    await opened.write(bytes, 0, 8, offset);
    await opened.close();
  };
  const make = (name) => {
    h.qemuImg('create', '-q', '-f', 'qcow2', at(name), '1G');
    h.qemuIo(at(name), 'qcow2', 'write -P 1 0 1M', 'write -P 1 600M 1M');
    return at(name);
  };
  // A table that is cut off; entries of a table that point into nothing; tables in a circle.
  const cut = make('cut.qcow2');
  await truncate(cut, (await word(cut, 40)) + 4);
  const astray = make('astray.qcow2');
  await put(astray, await word(astray, 40), (1n << 63n) | 0x00ffffffffff0000n);
  const circle = make('circle.qcow2');
  const l1 = await word(circle, 40);
  await put(circle, l1, (1n << 63n) | BigInt(l1));
  await put(circle, await word(circle, l1 + 8), (1n << 63n) | BigInt(l1));
  const names = ['cut.qcow2', 'astray.qcow2', 'circle.qcow2'];
  await h.drop(page, names.map(at));
  await h.waitForChain(page, Object.fromEntries(names.map((name) => [name, ''])));
  for (const name of names) {
    await page.click(`[data-testid="node"][data-name="${name}"]`);
    await page.waitForSelector('[data-testid="details"]');
    for (const lens of ['map', 'disk', 'bytes']) {
      await page.click(`[data-testid="lens-${lens}"]`);
      await page.waitForSelector(`[data-testid="look-${lens}"]`);
      const settled = lens === 'bytes' ? '[data-testid="hex"] .hex__row' : `[data-testid="${lens}-canvas"][data-ready="true"]`;
      await page.waitForSelector(`${settled}, [data-testid="look-failed"]`, { timeout: 10_000 });
      assert.ok((await page.locator('[data-testid="look-failed"]').count()) <= 1, `${name} ${lens}`);
    }
  }
  assert.equal(await page.isVisible('[data-testid="crash"]'), false);
});
