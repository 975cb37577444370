/** Text that a confined program chose, fit to be looked at. */

// Control and format characters can hide or reorder what is shown: U+202E turns a path around.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** `value` with what cannot be seen written out, and at most `limit` characters of it. */
export function visible(value: string, limit = 4000): string {
  const shown = value.length > limit ? `${value.slice(0, limit)}…` : value;
  return shown.replace(
    INVISIBLE,
    character =>
      `\\u{${(character.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}}`
  );
}

/** As `visible`, where lines and tabs are what they are: a policy in YAML. */
export function visibleLines(value: string): string {
  return value
    .split('\n')
    .map(line =>
      line
        .split('\t')
        .map(part => visible(part, 10_000))
        .join('\t')
    )
    .join('\n');
}

/** The last component of a path. */
export function basename(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1) || path;
}
