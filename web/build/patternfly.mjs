// PatternFly's stylesheet, pruned: the whole is 1.8 MB, of which the app uses a small part.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

const PARTS = [
  'patternfly-base.css',
  ...[
    'Alert', 'Badge', 'Button', 'Card', 'Check', 'DescriptionList', 'Divider', 'EmptyState', 'Form',
    'FormControl', 'HelperText', 'Icon', 'Label', 'Masthead', 'Menu', 'Page', 'Progress', 'Spinner',
    'Switch', 'Title',
  ].map((c) => `components/${c}/${c.replace(/(?<=[a-z])(?=[A-Z])/g, '-').toLowerCase()}.css`),
];

const FONTS = /\/(RedHatTextVF|RedHatDisplayVF|RedHatMonoVF|fa-solid-900)\.woff2/;

/** Splits a stylesheet (or the inside of an at-rule) into `[prelude, body]` pairs. */
function* rules(css) {
  let at = 0;
  while (at < css.length) {
    const open = css.indexOf('{', at);
    if (open < 0) return;
    // Statements such as @charset and @import end with a semicolon before the next brace.
    const prelude = css.slice(at, open).replace(/^[^{]*;/, '').trim();
    let depth = 1;
    let end = open + 1;
    for (; end < css.length && depth > 0; end += 1) {
      if (css[end] === '{') depth += 1;
      else if (css[end] === '}') depth -= 1;
    }
    yield [prelude, css.slice(open + 1, end - 1)];
    at = end;
  }
}

/** The top-level comma-separated parts of a selector list. */
function selectors(list) {
  const out = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i < list.length; i += 1) {
    if (list[i] === '(') depth += 1;
    else if (list[i] === ')') depth -= 1;
    else if (list[i] === ',' && depth === 0) {
      out.push(list.slice(start, i).trim());
      start = i + 1;
    }
  }
  out.push(list.slice(start).trim());
  return out;
}

const UNUSED_THEMES = /theme-(felt|glass|high-contrast|redhat|unified)|\[dir=rtl\]|:dir\(rtl\)|pf-v6-m-dir-rtl/;

/** What the component library's alerts show, besides the icons our sources name. */
const ALERT_ICONS = 'fa-times fa-bell fa-check-circle fa-exclamation-triangle fa-exclamation-circle fa-info-circle';

/** The classes of all icons in `sources`, as a set. */
function icons(sources) {
  const classes = `${ALERT_ICONS}\n${sources}`.match(/\bfa-[a-z0-9-]+/g);
  const variants = [...sources.matchAll(/\bIcon::([A-Z]\w*)/g)].map(
    ([, name]) => `fa-${name.replace(/(?<=[a-z0-9])(?=[A-Z])/g, '-').toLowerCase()}`,
  );
  return new Set([...classes, ...variants]);
}

/**
 * @param {string} dir the npm package
 * @param {string} used text in which every class in use occurs
 * @param {string} sources text in which every icon in use is named
 */
export async function patternfly(dir, used, sources) {
  const source = (await Promise.all(PARTS.map((p) => readFile(join(dir, p), 'utf8'))))
    .join('\n')
    .replace(/\/\*[\s\S]*?\*\//g, '');
  const shown = icons(sources);
  const known = new Map();
  const inUse = (name) => {
    if (!known.has(name)) known.set(name, name.startsWith('fa-') ? shown.has(name) : used.includes(name));
    return known.get(name);
  };
  const keepSelector = (s) =>
    !UNUSED_THEMES.test(s) &&
    [...s.replace(/:not\([^()]*\)/g, '').matchAll(/\.((?:pf|fa)[\w-]*)/g)].every(([, c]) => inUse(c));

  const prune = (css) => {
    let out = '';
    for (const [prelude, body] of rules(css)) {
      if (prelude.startsWith('@font-face')) {
        // A late font is still shown: texts of this app are short.
        if (FONTS.test(body)) out += `${prelude}{${squeeze(body).replace('display:fallback', 'display:swap')}}`;
      } else if (/^@(media print|page)/.test(prelude)) {
        continue;
      } else if (/^@(media|supports|layer|container)/.test(prelude)) {
        const inner = prune(body);
        if (inner) out += `${prelude}{${inner}}`;
      } else if (prelude.startsWith('@')) {
        out += `${prelude}{${squeeze(body)}}`;
      } else {
        const kept = selectors(prelude).filter(keepSelector);
        if (kept.length > 0 && body.trim()) out += `${kept.join(',')}{${squeeze(body)}}\n`;
      }
    }
    return out;
  };

  let css = dropUnusedProperties(prune(source), used);
  const fonts = [];
  css = css.replace(/url\("?(\.[^")]*?([\w-]+\.woff2))"?\)/g, (_, path, file) => {
    fonts.push({ from: join(dir, path), to: `fonts/${file}` });
    return `url("fonts/${file}")`;
  });
  return { css, fonts };
}

const squeeze = (body) => body.replace(/\s+/g, ' ').replace(/\s*([;:{},])\s*/g, '$1').trim();

/** Custom properties that nothing reads are most of what is left: dropped until none falls. */
function dropUnusedProperties(css, used) {
  for (;;) {
    const read = new Set([...(css + used).matchAll(/var\(\s*(--[\w-]+)/g)].map(([, n]) => n));
    const next = css.replace(/(?<=[{;])(--pf-[\w-]+):(?:[^;{}"]|"[^"]*")*(?:;|(?=\}))/g, (all, name) =>
      read.has(name) ? all : '',
    );
    if (next.length === css.length) return next.replace(/[^{}]+\{\}/g, '');
    css = next;
  }
}
