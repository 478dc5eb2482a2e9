// The course: every lesson is walked through to its end, as a learner would; what the engine
// made of the files is judged by qemu-img.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as h from './harness.mjs';

let session;
let page;

before(async () => {
  session = await h.start();
  page = session.page;
});
after(() => session?.close());

const byId = (id) => `[data-testid="${id}"]`;
const NOW = '.step--now';

/** Opens a lesson with nothing done. */
async function open(lesson) {
  await page.goto(`${session.site.url}#/learn`);
  await page.evaluate((name) => localStorage.removeItem(`learn.${name}`), lesson);
  await page.goto(`${session.site.url}#/learn/${lesson}`);
  await page.waitForSelector(`${byId('lesson')}[data-lesson="${lesson}"][data-done="0"]`);
  await ready();
}

async function ready() {
  await page.waitForSelector(`${byId('workplace')}[data-ready="true"]`);
  await page.waitForSelector(`${byId('peek')}[data-known="true"]`);
}

const done = () => page.getAttribute(byId('lesson'), 'data-done').then(Number);
const total = () => page.locator(byId('step')).count();

async function waitDone(step) {
  await page.waitForSelector(`${byId('lesson')}[data-done="${step}"]`).catch(async (error) => {
    const problem = await page.locator(byId('problem')).allInnerTexts();
    const goal = await page.locator(byId('goal')).allInnerTexts();
    throw new Error(`step ${step} is not reached: ${problem} ${goal} ${JSON.stringify(await h.nodes(page))} ${error.message}`);
  });
}

/** What the table says each layer's guest reads: name -> texts. */
async function read() {
  await page.waitForSelector(`${byId('peek')}[data-known="true"]`);
  return Object.fromEntries(
    await page.$$eval(byId('peek-row'), (rows) =>
      rows.map((row) => [row.dataset.name.replace(/\.\w+$/, ''), [...row.querySelectorAll('td')].map((td) => td.innerText)]),
    ),
  );
}

/** The drawn layers without the endings of their files: name -> "backing state". */
async function drawn() {
  const stem = (name) => name.replace(/\.\w+$/, '');
  return Object.fromEntries(
    Object.entries(await h.nodes(page)).map(([name, { backing, state }]) => [stem(name), `${stem(backing)} ${state}`]),
  );
}

/** What a step waits for. */
async function kind() {
  for (const id of ['continue', 'invalid', 'answer', 'perform', 'kill', 'show-me']) {
    if (await page.locator(`${NOW} ${byId(id)}`).count()) return id;
  }
  throw new Error('the step asks for nothing');
}

/** Fills the form in with "Show me", and runs it when it is planned. */
async function showAndRun() {
  await page.click(`${NOW} ${byId('show-me')}`);
  await page.waitForSelector(`${byId('preview')}[data-ready="true"]`);
  await page.click(byId('run'));
}

/** Ticks what the engine says is invalid. A wrong answer comes first, and is explained. */
async function answerInvalid() {
  const step = await done();
  const first = (await page.$$eval(`${NOW} ${byId('invalid')}`, (all) => all.map((one) => one.dataset.name)))[0];
  await page.check(`${NOW} ${byId('invalid')}[data-name="${first}"]`);
  await page.click(`${NOW} ${byId('check')}`);
  assert.equal(await page.getAttribute(`${NOW} ${byId('verdict')}`, 'data-right'), 'false');
  assert.equal(await done(), step);
  const wrong = await page.$$eval(`${NOW} .answer--wrong`, (all) => all.map((one) => ({
    name: one.querySelector('input').dataset.name,
    why: one.querySelector('[data-testid="reason"]').innerText,
  })));
  assert.ok(wrong.length > 0);
  for (const { name, why } of wrong) {
    assert.ok(why.length > 20, `${name}: ${why}`);
    await page.setChecked(`${NOW} ${byId('invalid')}[data-name="${name}"]`, name !== first);
  }
  if (wrong.length === 1 && wrong[0].name === first) await page.check(`${NOW} ${byId('none-invalid')}`);
  await page.click(`${NOW} ${byId('check')}`);
}

/** Every wrong answer is refused with a reason, the right one taken. */
async function answerQuestion() {
  const step = await done();
  const wrong = page.locator(`${NOW} ${byId('answer')}[data-right="false"]`);
  for (let nth = 0; nth < (await wrong.count()); nth++) {
    await wrong.nth(nth).check();
    await page.click(`${NOW} ${byId('check')}`);
    assert.equal(await page.locator(`${NOW} .answer--wrong ${byId('reason')}`).count(), 1);
    assert.equal(await done(), step);
  }
  await page.check(`${NOW} ${byId('answer')}[data-right="true"]`);
  await page.click(`${NOW} ${byId('check')}`);
}

/** Takes the step that is to be taken now. */
async function takeStep(hooks = {}) {
  const step = await done();
  await ready();
  const what = await kind();
  if (hooks[step]) await hooks[step]();
  else if (what === 'continue') await page.click(`${NOW} ${byId('continue')}`);
  else if (what === 'invalid') await answerInvalid();
  else if (what === 'answer') await answerQuestion();
  else if (what === 'perform') await page.click(`${NOW} ${byId('perform')}`);
  else await showAndRun();
  await waitDone(step + 1);
}

async function walk(lesson, hooks = {}) {
  await open(lesson);
  const steps = await total();
  for (let step = 0; step < steps; step++) await takeStep(hooks);
  await page.waitForSelector(byId('lesson-done'));
  await ready();
  const goal = page.locator(byId('goal'));
  if (await goal.count()) assert.equal(await goal.getAttribute('data-reached'), 'true');
  return drawn();
}

/** Copies the files of the lesson out of the browser's own storage. */
async function takeOut() {
  const dir = await mkdtemp(join(tmpdir(), 'backchain-lesson-'));
  const names = await page.evaluate(async () => {
    window.files = {};
    const root = await navigator.storage.getDirectory();
    const newest = [];
    for await (const [name, own] of root.entries()) {
      if (own.kind !== 'directory') continue;
      const course = await own.getDirectoryHandle('course').catch(() => null);
      if (course) newest.push([name, course]);
    }
    newest.sort(([a], [b]) => (a < b ? -1 : 1));
    for await (const [name, handle] of newest.at(-1)[1].entries()) {
      if (!name.endsWith('.crswap')) window.files[name] = await handle.getFile();
    }
    return Object.keys(window.files);
  });
  for (const name of names) {
    const bytes = await page.evaluate(async (name) => {
      const reader = new FileReader();
      reader.readAsDataURL(window.files[name]);
      await new Promise((resolve) => { reader.onload = resolve; });
      return reader.result.split(',')[1] ?? '';
    }, name);
    await writeFile(join(dir, name), Buffer.from(bytes, 'base64'));
  }
  return { dir, names, at: (name) => join(dir, name), forget: () => rm(dir, { recursive: true, force: true }) };
}

/** Text at a guest offset, as qemu reads it. */
function text(file, offset, length) {
  const dump = h.qemuIo(file, 'qcow2', `read -v ${offset} ${length}`);
  return [...dump.matchAll(/^[0-9a-f]+: +((?:[0-9a-f]{2} )+)/gim)]
    .flatMap(([, bytes]) => bytes.trim().split(/\s+/))
    .map((byte) => String.fromCharCode(parseInt(byte, 16)))
    .join('')
    .replace(/\0.*$/s, '');
}

// The figure each lesson ends with: layer -> "what it stands on, and its state".
const ENDS = {
  'backing-files': { RootBase: ' ok', 'Overlay-1': 'RootBase ok', 'Overlay-1A': 'Overlay-1 ok', 'Overlay-1B': 'Overlay-1A ok' },
  'one-base-many-branches': {
    RootBase: ' ok', 'Overlay-1': 'RootBase ok', 'Overlay-1A': 'Overlay-1 ok', 'Overlay-1B': 'Overlay-1A ok', 'Overlay-1C': 'Overlay-1B ok',
    'Overlay-2': 'RootBase ok', 'Overlay-2A': 'Overlay-2 ok', 'Overlay-3': 'RootBase ok', 'Overlay-3A': 'Overlay-3 ok',
  },
  'thin-clones': { Template: ' ok', 'Clone-1': 'Template ok', 'Clone-2': 'Template ok' },
  'snapshot-terms': { Disk: ' ok', Overlay: 'Disk ok' },
  'internal-snapshots': { Disk: ' ok' },
  'external-snapshot': { RootBase: ' ok', 'Snap-1': 'RootBase ok' },
  'revert-external': { RootBase: ' ok', 'Snap-1': 'RootBase ok', Retry: 'Snap-1 ok' },
  'blockcommit-fig-4': { RootBase: ' ok', 'Snap-1': 'RootBase invalid', 'Snap-2': 'Snap-1 invalid', 'Snap-3': 'Snap-2 invalid', 'Snap-4': 'RootBase ok' },
  'blockcommit-s1-s2': { RootBase: ' ok', 'Snap-1': 'RootBase invalid', 'Snap-2': 'Snap-1 invalid', 'Snap-3': 'RootBase ok', 'Snap-4': 'Snap-3 ok' },
  'blockcommit-s1': { RootBase: ' ok', 'Snap-1': 'RootBase invalid', 'Snap-2': 'RootBase ok', 'Snap-3': 'Snap-2 ok', 'Snap-4': 'Snap-3 ok' },
  'blockcommit-s2-to-s1': { RootBase: ' ok', 'Snap-1': 'RootBase ok', 'Snap-2': 'Snap-1 invalid', 'Snap-3': 'Snap-1 ok', 'Snap-4': 'Snap-3 ok' },
  'blockcommit-s3-to-s2': { RootBase: ' ok', 'Snap-1': 'RootBase ok', 'Snap-2': 'Snap-1 ok', 'Snap-3': 'Snap-2 invalid', 'Snap-4': 'Snap-2 ok' },
  'commit-active': { RootBase: ' ok', 'Snap-1': 'RootBase ok', 'Snap-2': 'Snap-1 ok', 'Snap-3': 'Snap-2 ok', 'Snap-4': 'Snap-3 ok' },
  'one-shot-or-stepwise': { base: ' ok', sn1: 'base ok', sn2: 'sn1 invalid', sn3: 'sn2 invalid', active: 'sn1 ok' },
  'blockpull-fig-6': { Active: ' ok', RootBase: ' ok', 'Snap-1': 'RootBase ok', 'Snap-2': 'Snap-1 ok', 'Snap-3': 'Snap-2 ok' },
  'sizes-of-a-pull': { Active: ' ok', RootBase: ' ok', 'Snap-1': 'RootBase ok' },
  'remove-method-1': { base: ' ok', sn1: 'base ok', sn3: 'sn1 ok' },
  'look-inside': { RootBase: ' ok', 'Snap-1': 'RootBase invalid', Active: 'RootBase ok' },
  loop: { Base: ' ok', 'Snap-1': 'Base ok', 'Snap-2': 'Snap-1 ok' },
  'missing-backing-file': { 'RootBase-moved': ' ok', 'Snap-1': 'RootBase-moved ok', 'Snap-2': 'Snap-1 ok' },
};

describe('every lesson to its end', () => {
  for (const [lesson, end] of Object.entries(ENDS)) {
    test(lesson, async () => assert.deepEqual(await walk(lesson), end));
  }
});

describe('what the engine made is sound', () => {
  test('Fig 3, filled in by hand', async () => {
    const end = await walk('blockcommit-fig-3', {
      0: async () => {
        await h.choose(page, 'commit', { top: 'Snap-3.qcow2', base: 'Snap-1.qcow2' });
        await page.waitForSelector(`${byId('preview')}[data-ready="true"]`);
        await page.click(byId('run'));
      },
    });
    assert.deepEqual(end, {
      RootBase: ' ok', 'Snap-1': 'RootBase ok', 'Snap-2': 'Snap-1 invalid', 'Snap-3': 'Snap-2 invalid', 'Snap-4': 'Snap-1 ok',
    });
    const files = await takeOut();
    for (const name of files.names) h.check(files.at(name));
    assert.equal(h.backingOf(files.at('Snap-4.qcow2')), 'Snap-1.qcow2');
    // What the page says a guest reads is what qemu reads.
    const table = await read();
    for (const [name, [kernel, diary, log]] of Object.entries(table)) {
      const at = (offset) => text(files.at(`${name}.qcow2`), offset, 24) || 'zeros';
      assert.deepEqual([at('8M'), at('9M'), at('10M')], [kernel, diary, log], name);
    }
    await files.forget();
  });

  test('Fig 5: the intermediates stay valid until they are deleted', async () => {
    await open('blockpull-fig-5');
    await takeStep();
    await takeStep();
    const files = await takeOut();
    for (const name of files.names) h.check(files.at(name));
    assert.equal(h.backingOf(files.at('Active.qcow2')), 'RootBase.qcow2');
    // Active read through Snap-3 before: whatever Snap-3 has must be the same through Active now.
    const range = ['convert', '-O', 'raw'];
    h.qemuImg(...range, files.at('Active.qcow2'), files.at('active.raw'));
    h.qemuImg(...range, files.at('Snap-3.qcow2'), files.at('snap3.raw'));
    const [active, below] = [files.at('active.raw'), files.at('snap3.raw')];
    const at = (file, mib) => h.qemuIo(file, 'raw', `read -v ${mib}M 64`).replace(/^.*ops.*$/gm, '');
    for (const mib of [0, 2, 4, 5, 6, 8, 10]) assert.equal(at(active, mib), at(below, mib), `${mib} MiB`);
    assert.match(at(active, 7), /51 51 51/);
    await files.forget();
    await takeStep();
    await takeStep();
    await page.waitForSelector(byId('lesson-done'));
    assert.deepEqual(await drawn(), { RootBase: ' ok', Active: 'RootBase ok' });
    const left = await takeOut();
    assert.deepEqual(left.names.sort(), ['Active.qcow2', 'RootBase.qcow2']);
    await left.forget();
  });

  test('Method 2 writes to sn3 and not to sn1', async () => {
    await open('remove-method-2');
    const before = await takeOut();
    await takeStep();
    await takeStep();
    const files = await takeOut();
    for (const name of files.names) h.check(files.at(name));
    assert.equal(h.backingOf(files.at('sn3.qcow2')), 'sn1.qcow2');
    assert.equal(h.sha256(files.at('sn1.qcow2')), h.sha256(before.at('sn1.qcow2')));
    h.qemuImg('compare', before.at('sn3.qcow2'), files.at('sn3.qcow2'));
    await before.forget();
    await files.forget();
    while ((await done()) < (await total())) await takeStep();
    assert.deepEqual(await drawn(), { base: ' ok', sn1: 'base ok', sn3: 'sn1 ok' });
  });

  test('an internal snapshot is one for qemu, too', async () => {
    await open('internal-snapshots');
    for (let step = 0; step < 4; step++) await takeStep();
    const files = await takeOut();
    h.check(files.at('Disk.qcow2'));
    assert.match(h.qemuImg('snapshot', '-l', files.at('Disk.qcow2')), /before/);
    assert.equal(text(files.at('Disk.qcow2'), '8M', 24), 'monday');
    await files.forget();
  });
});

describe('what people get wrong', () => {
  test('a commit into a shared base is refused until the learner insists', async () => {
    const end = await walk('what-a-commit-invalidates', {
      1: async () => {
        await h.choose(page, 'commit', { top: 'Snap-3.qcow2', base: 'RootBase.qcow2' });
        await page.waitForSelector(byId('force'));
        assert.match(await page.innerText(byId('preview')), /Other\.qcow2/);
        assert.equal((await h.run(page)).status, 'failed');
        assert.deepEqual((await read()).Other.slice(0, 2), ['kernel 5.10', 'another machine']);
        await page.click('[data-testid="operation"] footer button');
        await showAndRun();
      },
    });
    assert.equal(end.Other, 'RootBase invalid');
    assert.deepEqual((await read()).Other.slice(0, 3), ['kernel 6.1', 'another machine', 'log of Snap-3']);
    assert.match(await page.innerText(byId('wrong')), /Snap-1, Snap-1, Snap-3/);
  });

  test('siblings read what is not theirs', async () => {
    const end = await walk('shared-base');
    assert.deepEqual(end, { Template: ' ok', Build: 'Template ok', Web: 'Template invalid', Mail: 'Template invalid' });
    assert.equal((await read()).Web[1], 'licence: build only');
    // qemu-img finds nothing wrong: that is the lesson.
    const files = await takeOut();
    for (const name of files.names) h.check(files.at(name));
    assert.equal(text(files.at('Mail.qcow2'), '9M', 24), 'licence: build only');
    await files.forget();
  });

  test('blockpull is not block-copy, and Method 2 merges into sn3', async () => {
    for (const [lesson, words] of [['blockpull-fig-5', /blockpull.*not "block-copy"/s], ['remove-method-2', /merged into sn3/]]) {
      await open(lesson);
      assert.match(await page.innerText(byId('wrong')), words);
    }
  });
});

describe('a long merge', () => {
  test('shows how far it is, and is cancelled', async () => {
    await walk('progress', {
      0: async () => {
        const before = await drawn();
        await showAndRun();
        await page.waitForSelector(byId('progress'));
        await page.click(byId('cancel'));
        assert.equal((await h.result(page)).status, 'cancelled');
        await waitDone(1);
        assert.deepEqual(await drawn(), before);
      },
    });
    assert.deepEqual(await drawn(), { RootBase: ' ok', 'Snap-1': 'RootBase invalid', Active: 'RootBase ok' });
  });

  test('is killed half-way: every file is intact, and it can be run again', async () => {
    await walk('killed-half-way', {
      1: async () => {
        const workers = page.workers();
        const chain = await drawn();
        await page.click(`${NOW} ${byId('show-me')}`);
        await page.waitForSelector(`${byId('preview')}[data-ready="true"]`);
        await page.click(byId('run'));
        await page.click(`${NOW} ${byId('kill')}`);
        await waitDone(2);
        await ready();
        // The very worker that wrote is gone.
        assert.ok(workers.some((worker) => !page.workers().includes(worker)));
        assert.deepEqual(await drawn(), chain);
        assert.equal((await read()).Active[0], 'the end');
        for (const cells of Object.values(await read())) assert.equal(cells.at(-1), 'no errors');
      },
    });
    assert.deepEqual(await drawn(), { RootBase: ' ok', 'Snap-1': 'RootBase invalid', Active: 'RootBase ok' });
    assert.equal((await read()).Active[0], 'the end');
  });
});

test('the text that a guest wrote is found, before and after a merge', async () => {
  await open('look-inside');
  await takeStep();
  const find = async () => {
    await page.click(byId('lens-bytes'));
    await page.selectOption(byId('space'), 'guest');
    await page.fill(byId('needle'), 'report');
    await page.click(byId('find'));
    // "the report is done" begins at 33 MiB.
    await page.waitForFunction(
      () => /the report is done/.test(document.querySelector('[data-testid="hex"]')?.innerText.replace(/\n/g, '')
        ?? '') || Number(document.querySelector('[data-testid="hex"]')?.dataset.start) >= (33 << 20) - 4096,
    );
    await page.click(byId('lens-bytes'));
  };
  await find();
  await takeStep();
  await takeStep();
  await find();
});

test('on a quick machine the page cancels and kills by itself', async () => {
  for (const [lesson, step] of [['progress', 0], ['killed-half-way', 1]]) {
    await open(lesson);
    while ((await done()) < step) await takeStep();
    await page.click(`${NOW} ${byId('by-itself')}`);
    await waitDone(step + 1);
    await ready();
    assert.deepEqual(await drawn(), { RootBase: ' ok', 'Snap-1': 'RootBase ok', Active: 'Snap-1 ok' });
  }
});

test('both methods are counted: step by step moves more', async () => {
  await open('one-shot-or-stepwise');
  while ((await done()) < (await total())) await takeStep();
  const [a, first, second] = await page.$$eval(`${byId('moved')} tr`, (rows) => rows.map((row) => Number(row.dataset.bytes)));
  assert.ok(first + second > a, `${first} + ${second} against ${a}`);
});

test('a pull makes the file grow that is pulled into, and no other', async () => {
  await open('sizes-of-a-pull');
  const sizes = () => page.$$eval(`${byId('sizes')} [data-name]`, (all) => Object.fromEntries(all.map((one) => [one.dataset.name, Number(one.dataset.size)])));
  const before = await sizes();
  await takeStep();
  await takeStep();
  const now = await sizes();
  assert.ok(now['Active.qcow2'] > before['Active.qcow2'] + (29 << 20));
  for (const name of ['RootBase.qcow2', 'Snap-1.qcow2']) assert.equal(now[name], before[name]);
});

test('progress survives a reload, and the chain is where it was', async () => {
  await open('blockcommit-fig-4');
  await takeStep();
  await takeStep();
  await page.reload();
  await page.waitForSelector(`${byId('lesson')}[data-done="2"]`);
  await ready();
  assert.equal(await page.locator('.step--done').count(), 2);
  assert.equal((await drawn())['Snap-4'], 'RootBase ok');
  await takeStep();
  await page.goto(`${session.site.url}#/learn`);
  await page.waitForSelector(`${byId('lesson-link')}[data-lesson="blockcommit-fig-4"][data-done="3"]`);
  await page.click(`${byId('lesson-link')}[data-lesson="blockcommit-fig-4"]`);
  await page.waitForSelector(byId('lesson-done'));
  await page.click(byId('reset'));
  await page.waitForSelector(`${byId('lesson')}[data-done="0"]`);
  await ready();
  assert.equal((await drawn())['Snap-4'], 'Snap-3 ok');
});

test('another operation than the one asked for is not taken, and the chain can be made anew', async () => {
  await open('blockcommit-s1');
  await h.choose(page, 'commit', { top: 'Snap-2.qcow2', base: 'RootBase.qcow2' });
  assert.equal((await h.run(page)).status, 'done');
  await page.waitForSelector(byId('missed'));
  assert.equal(await done(), 0);
  assert.equal(await page.getAttribute(byId('goal'), 'data-reached'), 'false');
  await page.click(byId('anew'));
  await page.waitForFunction(() => document.querySelector('[data-testid="node"][data-name="Snap-3.qcow2"]')?.dataset.backing === 'Snap-2.qcow2');
  await takeStep();
});

test('a lesson is done with the keyboard alone, and keys lead on', async () => {
  await open('blockcommit-fig-4');
  await page.locator('h1').focus();
  await page.keyboard.press('Enter');
  await waitDone(1);
  await page.keyboard.press('Enter');
  await page.waitForSelector(`${byId('preview')}[data-ready="true"]`);
  await page.focus(byId('run'));
  await page.keyboard.press('Enter');
  await waitDone(2);
  for (const name of ['Snap-1', 'Snap-2', 'Snap-3']) {
    await page.focus(`${NOW} ${byId('invalid')}[data-name="${name}.qcow2"]`);
    await page.keyboard.press('Space');
  }
  await page.keyboard.press('Enter');
  await waitDone(3);
  await page.locator('h1').focus();
  await page.keyboard.press('n');
  await page.waitForSelector(`${byId('lesson')}[data-lesson="blockcommit-s1-s2"]`);
  await page.keyboard.press('p');
  await page.waitForSelector(`${byId('lesson')}[data-lesson="blockcommit-fig-4"]`);
});

test('addresses of lessons work, also those of none', async () => {
  const lessons = await (async () => {
    await page.goto(`${session.site.url}#/learn`);
    await page.waitForSelector(byId('lesson-link'));
    return page.$$eval(byId('lesson-link'), (all) => all.map((one) => one.dataset.lesson));
  })();
  const walked = [...Object.keys(ENDS), 'blockcommit-fig-3', 'blockpull-fig-5', 'remove-method-2', 'what-a-commit-invalidates', 'shared-base', 'progress', 'killed-half-way'];
  assert.deepEqual([...lessons].sort(), walked.sort(), 'every lesson is walked by a test');
  await page.goto(`${session.site.url}#/learn/no-such-lesson`);
  await page.waitForFunction(() => document.querySelector('h1')?.innerText === 'There is no such lesson');
});

test('on paper every step is open, and nothing is there to press', async () => {
  await open('blockcommit-fig-4');
  await page.emulateMedia({ media: 'print' });
  for (const body of await page.locator('.step__body').all()) assert.ok(await body.isVisible());
  assert.equal(await page.locator('.masthead').isVisible(), false);
  assert.equal(await page.locator(byId('continue')).isVisible(), false);
  await page.emulateMedia({ media: null });
});
