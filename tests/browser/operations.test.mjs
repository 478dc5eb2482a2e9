// The merges of the source document, on real files of the local disk, judged by qemu-img.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
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
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const at = (name) => join(dir, name);
const NAMES = ['RootBase', 'Snap-1', 'Snap-2', 'Snap-3', 'Snap-4'].map((n) => `${n}.qcow2`);
const [BASE, S1, S2, S3, S4] = NAMES;

/** Five layers, each with data of its own, overwriting and zeroing some of what is below. */
function chain({ options = [], sizes = [], base = 'qcow2' } = {}) {
  const names = [...NAMES];
  if (base === 'raw') names[0] = 'RootBase.img';
  names.forEach((name, i) => {
    const format = i === 0 ? base : 'qcow2';
    const more = options[i] ? ['-o', options[i]] : [];
    const backing = i === 0 ? [] : ['-b', names[i - 1], '-F', i === 1 ? base : 'qcow2'];
    h.qemuImg('create', '-q', '-f', format, ...more, ...backing, at(name), sizes[i] ?? '48M');
    h.qemuIo(at(name), format,
      `write -P ${0x11 * (i + 1)} ${i * 3}M 5M`,
      `write -P ${0x0f + i} ${(20 + i) * 1024 + i * 12}k 300k`,
      ...(i > 0 ? [`write -z ${i * 2}M 1536k`] : []),
    );
  });
  return names;
}

/** What each image reads like now, to compare with later. */
function remember(names) {
  for (const name of names) h.qemuImg('convert', '-O', 'raw', at(name), at(`${name}.before`));
}

function judge(names, formats = {}) {
  for (const name of names) {
    const format = formats[name] ?? 'qcow2';
    if (format === 'qcow2') h.check(at(name));
    h.same(at(name), format, at(`${name}.before`));
  }
}

async function perform(op, choices, expected = 'done') {
  await h.choose(page, op, choices);
  const result = await h.run(page);
  assert.equal(result.status, expected, result.text);
  return result;
}

/** Commits `top` into `base`; `left` is the chain that stays, `invalid` what does not. */
function commitCase(title, top, base, left, invalid, shape = {}) {
  test(title, async () => {
    const names = chain(shape);
    remember(names);
    await h.drop(page, names.map(at));
    await h.waitForChain(page, Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? ''])));
    await perform('commit', { top, base });
    for (const [i, name] of left.entries()) {
      if (i > 0) assert.equal(h.backingOf(at(name)), left[i - 1]);
    }
    judge([left.at(-1)]);
    for (const name of left) if (name.endsWith('.qcow2')) h.check(at(name));
    const drawn = await h.nodes(page);
    for (const [i, name] of left.entries()) {
      assert.deepEqual(drawn[name], { backing: left[i - 1] ?? '', state: 'ok' }, name);
    }
    for (const name of invalid) assert.equal(drawn[name].state, 'invalid', name);
  });
}

const SHAPES = {
  plain: {},
  'raw base': { base: 'raw' },
  'mixed cluster sizes, versions and extended L2': {
    options: ['cluster_size=4k', 'compat=0.10', 'cluster_size=128k,extended_l2=on', 'cluster_size=2M', 'refcount_bits=1'],
  },
  'unequal sizes': { sizes: ['30M', '50M', '40M', '64M', '56M'] },
};

// Each figure of the source document: what is chosen, the links afterwards from the base up,
// and what is invalid then. The base is called by its number, as it may be raw.
const FIGURES = {
  'Fig 3, commit Snap-2 and Snap-3 into Snap-1': ['commit', { top: 3, base: 1 }, [0, 1, 4], [2]],
  'Fig 4, commit Snap-1 to Snap-3 into RootBase': ['commit', { top: 3, base: 0 }, [0, 4], [1, 2]],
  'Fig 5, pull Snap-1 to Snap-3 into the active layer': ['pull', { top: 4, base: 0 }, [0, 4], []],
  'Fig 6, pull everything into the active layer': ['pull', { top: 4, base: '' }, [4], []],
  'Method 2, rebase Snap-3 onto Snap-1': ['rebase', { top: 3, base: 1 }, [0, 1, 3, 4], []],
};

for (const [shape, how] of Object.entries(SHAPES)) {
  describe(shape, () => {
    for (const [figure, [op, chosen, links, invalid]] of Object.entries(FIGURES)) {
      test(figure, async () => {
        const names = chain(how);
        const formats = { [names[0]]: how.base ?? 'qcow2' };
        remember(names);
        await h.drop(page, names.map(at));
        await h.waitForChain(page, Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? ''])));
        await perform(op, {
          top: names[chosen.top],
          base: chosen.base === '' ? '' : names[chosen.base],
        });
        // A commit changes what its target reads; everything else that is valid stays as it was.
        const target = op === 'commit' ? chosen.base : undefined;
        const valid = names.filter((_, i) => !invalid.includes(i) && i !== target);
        judge(valid, formats);
        if (target !== undefined && formats[names[target]] !== 'raw') h.check(at(names[target]));
        const drawn = await h.nodes(page);
        links.forEach((layer, i) => {
          const below = i === 0 ? '' : names[links[i - 1]];
          if (formats[names[layer]] !== 'raw') assert.equal(h.backingOf(at(names[layer])), below);
          assert.deepEqual(drawn[names[layer]], { backing: below, state: 'ok' });
        });
        for (const layer of invalid) assert.equal(drawn[names[layer]].state, 'invalid');
        // The source document counts the committed top among the invalid ones.
        if (op === 'commit') assert.equal(drawn[names[chosen.top]].state, 'invalid');
      });
    }
  });
}

describe('commit', () => {
  commitCase('Snap-1 into RootBase', S1, BASE, [BASE, S2, S3, S4], []);
  commitCase('Snap-1 and Snap-2 into RootBase', S2, BASE, [BASE, S3, S4], [S1]);
  commitCase('Snap-2 into Snap-1', S2, S1, [BASE, S1, S3, S4], []);
  commitCase('Snap-3 into Snap-2', S3, S2, [BASE, S1, S2, S4], []);

  test('the active layer', async () => {
    const names = chain();
    remember(names);
    await h.drop(page, names.map(at));
    await h.waitForChain(page, Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? ''])));
    await perform('commit', { top: S4, base: BASE });
    h.check(at(BASE));
    h.same(at(BASE), 'qcow2', at(`${S4}.before`));
  });

  test('step by step: what one commit leaves behind does not stop the next', async () => {
    const names = chain();
    remember(names);
    await h.drop(page, names.map(at));
    await h.waitForChain(page, Object.fromEntries(names.map((n, i) => [n, names[i - 1] ?? ''])));
    await perform('commit', { top: S3, base: S2 });
    await perform('commit', { top: S2, base: S1 });
    judge([S4]);
    assert.equal(h.backingOf(at(S4)), S1);
    await perform('commit', { top: S1, base: BASE });
    judge([S4]);
    assert.equal(h.backingOf(at(S4)), BASE);
    await perform('commit', { top: S4, base: BASE });
    h.check(at(BASE));
    h.same(at(BASE), 'qcow2', at(`${S4}.before`));
    const drawn = await h.nodes(page);
    for (const name of [S1, S2, S3]) assert.equal(drawn[name].state, 'invalid', name);
  });

  test('other overlays are not broken without being asked', async () => {
    const names = chain();
    h.qemuImg('create', '-q', '-f', 'qcow2', '-b', S1, '-F', 'qcow2', at('branch.qcow2'));
    remember([...names, 'branch.qcow2']);
    const before = names.map((n) => h.sha256(at(n)));
    await h.drop(page, [...names, 'branch.qcow2'].map(at));
    await h.choose(page, 'commit', { top: S3, base: S1 });
    await page.waitForSelector('[data-testid="force"]');
    assert.match(await page.innerText('[data-testid="preview"]'), /branch\.qcow2 would read differently/);
    const refused = await h.run(page);
    assert.equal(refused.status, 'failed');
    assert.deepEqual(names.map((n) => h.sha256(at(n))), before);

    await h.choose(page, 'commit', { top: S3, base: S1 });
    await page.check('[data-testid="force"]');
    assert.equal((await h.run(page)).status, 'done');
    judge([S4]);
    assert.equal((await h.nodes(page))['branch.qcow2'].state, 'invalid');
  });
});

describe('pull', () => {
  test('into an intermediate layer', async () => {
    const names = chain();
    remember(names);
    await h.drop(page, names.map(at));
    await perform('pull', { top: S3, base: S1 });
    assert.equal(h.backingOf(at(S3)), S1);
    judge(names);
  });
});

describe('rebase', () => {
  test('safe, onto nothing', async () => {
    const names = chain();
    remember(names);
    await h.drop(page, names.map(at));
    await perform('rebase', { top: S4, base: '' });
    assert.equal(h.backingOf(at(S4)), '');
    judge(names);
  });

  test('unsafe: only the link of a renamed backing file', async () => {
    const names = chain();
    remember(names);
    h.qemuImg('convert', '-O', 'qcow2', '-B', BASE, '-F', 'qcow2', at(S1), at('moved.qcow2'));
    await h.drop(page, [...names, 'moved.qcow2'].map(at));
    const size = h.fileSize(at(S2));
    await perform('rebase', { top: S2, base: 'moved.qcow2', unsafe: true });
    assert.equal(h.backingOf(at(S2)), 'moved.qcow2');
    assert.equal(h.fileSize(at(S2)), size);
    judge([BASE, S1, S2, S3, S4]);
  });

  test('a loop is refused and nothing is written', async () => {
    const names = chain();
    const before = names.map((n) => h.sha256(at(n)));
    await h.drop(page, names.map(at));
    await h.choose(page, 'rebase', { top: S1, base: S3, unsafe: true });
    const refused = await h.run(page);
    assert.equal(refused.status, 'failed', refused.text);
    assert.deepEqual(names.map((n) => h.sha256(at(n))), before);
  });
});

describe('remove a middle layer', () => {
  for (const method of ['1', '2']) {
    test(`Method ${method}`, async () => {
      const names = chain();
      remember(names);
      await h.drop(page, names.map(at));
      await perform('remove', { top: S2, method });
      assert.equal(h.backingOf(at(S3)), S1);
      judge([S4, S3]);
      h.check(at(S1));
      assert.equal((await h.nodes(page))[S3].backing, S1);
    });
  }
});

test('a folder is dropped, with a relative link between its parts', async () => {
  const { mkdirSync } = await import('node:fs');
  mkdirSync(at('images/base'), { recursive: true });
  mkdirSync(at('images/vm'), { recursive: true });
  h.qemuImg('create', '-q', '-f', 'qcow2', at('images/base/root.qcow2'), '16M');
  h.qemuIo(at('images/base/root.qcow2'), 'qcow2', 'write -P 7 1M 2M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', '../base/root.qcow2', '-F', 'qcow2', at('images/vm/a.qcow2'));
  h.qemuIo(at('images/vm/a.qcow2'), 'qcow2', 'write -P 8 2M 2M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', at('images/vm/b.qcow2'));
  h.qemuIo(at('images/vm/b.qcow2'), 'qcow2', 'write -P 9 3M 2M');
  h.qemuImg('convert', '-O', 'raw', at('images/vm/b.qcow2'), at('b.before'));
  await h.drop(page, at('images'));
  await h.waitForChain(page, { 'root.qcow2': '', 'a.qcow2': 'root.qcow2', 'b.qcow2': 'a.qcow2' });
  await perform('pull', { top: 'b.qcow2', base: 'root.qcow2' });
  const link = JSON.parse(h.qemuImg('info', '--output=json', at('images/vm/b.qcow2')))['backing-filename'];
  assert.equal(link, '../base/root.qcow2');
  h.check(at('images/vm/b.qcow2'));
  h.same(at('images/vm/b.qcow2'), 'qcow2', at('b.before'));
});

test('absolute backing names, as many tools write them, stay absolute', async () => {
  h.qemuImg('create', '-q', '-f', 'qcow2', at(BASE), '16M');
  for (const [name, below] of [[S1, BASE], [S2, S1], [S3, S2]]) {
    h.qemuImg('create', '-q', '-f', 'qcow2', '-b', at(below), '-F', 'qcow2', at(name));
    h.qemuIo(at(name), 'qcow2', `write -P ${name.charCodeAt(5)} ${name.charCodeAt(5) - 48}M 2M`);
  }
  remember([S3]);
  await h.drop(page, [BASE, S1, S2, S3].map(at));
  await h.waitForChain(page, { [BASE]: '', [S1]: BASE, [S2]: S1, [S3]: S2 });
  await perform('commit', { top: S2, base: BASE });
  const link = JSON.parse(h.qemuImg('info', '--output=json', at(S3)))['backing-filename'];
  assert.equal(link, at(BASE));
  judge([S3]);
});
