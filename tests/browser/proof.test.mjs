// The proof that an operation changed nothing else: real files, digests judged by qemu-img and an
// independent BLAKE3.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { blake3 } from './blake3.mjs';
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
const NAMES = ['RootBase', 'Snap-1', 'Snap-2', 'Snap-3', 'Snap-4'].map((n) => `${n}.qcow2`);
const [BASE, S1, S2, S3, S4] = NAMES;

/** Five layers with data of their own, as long as `size`. */
function chain(size = '9M') {
  NAMES.forEach((name, i) => {
    const backing = i === 0 ? [] : ['-b', NAMES[i - 1], '-F', 'qcow2'];
    h.qemuImg('create', '-q', '-f', 'qcow2', ...backing, at(name), size);
    h.qemuIo(at(name), 'qcow2', `write -P ${0x11 * (i + 1)} ${i}M 1500k`, `write -P ${0x51 + i} ${7 * 1024 + 100 * i}k 300k`);
  });
}

/** The digest of what an image shows, without backchain. */
function digest(name) {
  h.qemuImg('convert', '-f', 'qcow2', '-O', 'raw', at(name), at('view.raw'));
  return blake3(readFileSync(at('view.raw')));
}

async function give(target = page) {
  await h.drop(target, NAMES.map(at));
  await h.waitForChain(target, Object.fromEntries(NAMES.map((n, i) => [n, NAMES[i - 1] ?? ''])));
}

async function receipt() {
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid="save-receipt"]')]);
  await download.saveAs(at('receipt.json'));
  return JSON.parse(readFileSync(at('receipt.json'), 'utf8'));
}

const verdicts = async () => Object.fromEntries(
  await page.$$eval('[data-testid="proof-image"]', (all) => all.map((i) => [i.dataset.name, i.dataset.verdict])),
);

test('a commit leaves what all others show, and the receipt has their true digests', async () => {
  chain();
  const shown = Object.fromEntries(NAMES.map((name) => [name, digest(name)]));
  await give();
  await h.choose(page, 'commit', { top: S2, base: S1 });
  assert.equal(await page.isChecked('[data-testid="prove"]'), false);
  await page.check('[data-testid="prove"]');
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  assert.equal(await page.getAttribute('[data-testid="proof"]', 'data-verdict'), 'identical');
  assert.deepEqual(await verdicts(), { [BASE]: 'identical', [S1]: 'identical', [S3]: 'identical', [S4]: 'identical' });

  const told = await receipt();
  assert.equal(told.engine, 'backchain');
  assert.match(told.version, /^\d+\.\d+\.\d+/);
  assert.ok(Math.abs(Date.now() - Date.parse(told.date)) < 60_000, told.date);
  assert.match(told.operation, /Snap-2/);
  assert.match(told.commands.join('\n'), /backchain blockcommit .*Snap-1\.qcow2 .*Snap-2\.qcow2/);
  assert.deepEqual(told.left_out.map((left) => left.name), [S2]);
  assert.deepEqual(told.images.map((image) => image.name), [BASE, S1, S3, S4]);
  for (const image of told.images) {
    // The target of a commit shows what was merged into it.
    const was = image.name === S1 ? S2 : image.name;
    assert.equal(image.compared_with, image.name === S1 ? S2 : undefined);
    assert.equal(image.virtual_size, 9 << 20);
    assert.equal(image.before, shown[was], `${image.name} before`);
    assert.equal(image.after, digest(image.name), `${image.name} after`);
    assert.equal(image.after, image.before);
    assert.equal(image.identical, true);
  }
});

test('a change of link alone that changes what images show is told loudly', async () => {
  chain();
  const before = digest(S3);
  await give();
  await h.choose(page, 'rebase', { top: S3, base: S1, unsafe: true });
  await page.check('[data-testid="prove"]');
  const result = await h.run(page);
  assert.equal(h.backingOf(at(S3)), S1);
  const found = await verdicts();
  assert.equal(found[S3], 'different');
  assert.equal(found[S2], 'identical');
  assert.equal(result.status, 'failed', result.text);
  assert.match(result.text, /The proof failed/);
  assert.match(await page.locator('[data-testid="proof"] [role="alert"]').innerText(), /NOT identical/);
  const image = (await receipt()).images.find(({ name }) => name === S3);
  assert.equal(image.before, before);
  assert.equal(image.after, digest(S3));
  assert.equal(image.identical, false);
});

test('a disk made longer is compared up to where it ended', async () => {
  chain();
  const before = digest(S4);
  await give();
  await h.choose(page, 'resize', { top: S4 });
  await page.fill('[data-testid="size"]', '12M');
  await page.check('[data-testid="prove"]');
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  const image = (await receipt()).images.find(({ name }) => name === S4);
  assert.equal(image.virtual_size, 12 << 20);
  assert.equal(image.compared, 9 << 20);
  assert.deepEqual([image.before, image.after, image.identical], [before, before, true]);
});

test('hashing can be stopped before anything is written', async () => {
  chain('64G');
  const files = NAMES.map((name) => h.sha256(at(name)));
  await give();
  await h.choose(page, 'commit', { top: S2, base: S1 });
  await page.check('[data-testid="prove"]');
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  await page.click('[data-testid="run"]');
  await page.waitForFunction(() => /Hashing RootBase\.qcow2 before/.test(document.querySelector('[data-testid="progress"]')?.textContent));
  await page.click('[data-testid="cancel"]');
  const result = await h.result(page);
  assert.equal(result.status, 'cancelled', result.text);
  assert.equal(await page.locator('[data-testid="proof"]').count(), 0);
  assert.deepEqual(NAMES.map((name) => h.sha256(at(name))), files);
});

test('copies to be saved are not claimed to be proven', async () => {
  chain();
  // Files of an input are readable only.
  await page.setInputFiles('[data-testid="file-input"]', NAMES.map(at));
  await h.waitForChain(page, Object.fromEntries(NAMES.map((n, i) => [n, NAMES[i - 1] ?? ''])));
  await h.choose(page, 'commit', { top: S2, base: S1 });
  await page.check('[data-testid="prove"]');
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  assert.equal(await page.getAttribute('[data-testid="proof"]', 'data-verdict'), 'missing');
  assert.match(await page.innerText('[data-testid="proof"]'), /No proof could be made: .*Snap-1\.qcow2/);
  assert.equal(await page.locator('[data-testid="save-receipt"]').count(), 0);
});
