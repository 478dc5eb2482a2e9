// Fonts, cut down to what is written with them: the whole ones are a fifth of the site.
import { readFile } from 'node:fs/promises';
import subset from 'subset-font';

/** Western Latin, punctuation, and the arrows and signs the app uses. */
const RANGES = [
  [0x20, 0x7e], [0xa0, 0xff], [0x2010, 0x2027], [0x2030, 0x203a],
  [0x2190, 0x2199], [0x20ac, 0x20ac], [0x2122, 0x2122], [0x2212, 0x2212], [0x2260, 0x2265],
];
const LETTERS = RANGES.map(([from, to]) =>
  String.fromCodePoint(...Array.from({ length: to - from + 1 }, (_, i) => from + i)),
).join('');

/** The weights each variable font is used in: one is half as long as a range. */
const WEIGHTS = [
  [/RedHatText/, { min: 400, max: 600 }],
  [/RedHatDisplay/, 600],
  [/RedHatMono/, 400],
];

/**
 * The font with only the characters that may occur: letters for a text font, and for the icon
 * font those that the stylesheet names. Others are shown in the system's font.
 *
 * @param {string} file a woff2 file
 * @param {string} css the stylesheet, whose `content` names the icons
 */
export async function cutDown(file, css) {
  const font = await readFile(file);
  const icons = [...css.matchAll(/content:"\\([0-9a-f]{4,5})"/g)].map(([, hex]) => parseInt(hex, 16));
  const text = /fa-solid/.test(file) ? String.fromCodePoint(...new Set(icons)) : LETTERS;
  const wght = WEIGHTS.find(([name]) => name.test(file))?.[1];
  return subset(font, text, { targetFormat: 'woff2', variationAxes: wght && { wght } });
}
