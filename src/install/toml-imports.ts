/**
 * The one change that is made to somebody's config.toml: a path is put into, or taken out of, its top-level list
 * `imports`. The rest of the file keeps every byte. Nothing is parsed beyond what tells where that list is; a file that
 * is not understood is not changed.
 */

/** Behind a line that is ours. */
const MARK = '# added by "obd install"';

interface Statement {
  readonly key: string;
  /** Offsets of the statement's first character, of its value, behind its value, and behind its line. */
  readonly start: number;
  readonly valueStart: number;
  readonly valueEnd: number;
  readonly lineEnd: number;
}

/** What stands before the first table. */
interface TopLevel {
  readonly version: number;
  readonly versionEnd: number | undefined;
  readonly imports: Statement | undefined;
}

/** A file's `version`; 1 if it does not say (as containerd has it). Undefined if the file is not understood. */
export function configVersion(text: string): number | undefined {
  return topLevel(text)?.version;
}

/** The paths in `imports`. Undefined if the file is not understood. */
export function importsOf(text: string): readonly string[] | undefined {
  const top = topLevel(text);
  if (top === undefined) return undefined;
  return top.imports === undefined ? [] : listItems(text, top.imports)?.map(({ value }) => value);
}

/**
 * The text with `path` imported as well; the same text if it was. Undefined if the file is not understood.
 * @param path absolute, without quotes or backslashes.
 */
export function withImport(text: string, path: string): string | undefined {
  const top = topLevel(text);
  if (top === undefined || /["\\\n]/.test(path)) return undefined;
  if (top.imports === undefined) {
    const at = top.versionEnd ?? 0;
    const before = text.slice(0, at);
    const separator = before === '' || before.endsWith('\n') ? '' : '\n';
    return `${before}${separator}imports = ["${path}"] ${MARK}\n${text.slice(at)}`;
  }
  const items = listItems(text, top.imports);
  if (items === undefined) return undefined;
  if (items.some(({ value }) => value === path)) return text;
  const at = top.imports.valueStart + 1;
  return `${text.slice(0, at)}"${path}"${items.length > 0 ? ', ' : ''}${text.slice(at)}`;
}

/** The text with exactly these imports, for a trial. The file must be understood. */
export function withImports(text: string, paths: readonly string[]): string {
  const imports = topLevel(text)?.imports;
  const list = `[${paths.map((path) => JSON.stringify(path)).join(', ')}]`;
  if (imports === undefined) return `imports = ${list}\n${text}`;
  return text.slice(0, imports.valueStart) + list + text.slice(imports.valueEnd);
}

/** The text without `path` in its imports, and without the line if {@link withImport} wrote it. Undefined as above. */
export function withoutImport(text: string, path: string): string | undefined {
  const top = topLevel(text);
  if (top === undefined) return undefined;
  if (top.imports === undefined) return text;
  const items = listItems(text, top.imports);
  if (items === undefined) return undefined;
  const index = items.findIndex(({ value }) => value === path);
  const item = items[index];
  if (item === undefined) return text;
  const { start, lineEnd } = top.imports;
  if (items.length === 1 && text.slice(start, lineEnd).includes(MARK))
    return text.slice(0, start) + text.slice(lineEnd);
  // With the comma and the blanks behind it, or, for the last of several, those before it.
  const behind = /^\s*,[ \t]*/.exec(text.slice(item.end))?.[0].length;
  if (behind !== undefined) return text.slice(0, item.start) + text.slice(item.end + behind);
  const previous = items[index - 1];
  return text.slice(0, previous?.end ?? item.start) + text.slice(item.end);
}

/** True if the list `imports` brings `path` in, by name or by a pattern that containerd resolves as we do. */
export function isImported(imports: readonly string[], path: string): boolean {
  return imports.some((entry) => {
    if (!entry.startsWith('/')) return false; // relative patterns are resolved differently by each containerd
    const pattern = entry
      .split('')
      .map((c) => (c === '*' ? '[^/]*' : c.replace(/[.+?^${}()|[\]\\]/, '\\$&')));
    return new RegExp(`^${pattern.join('')}$`).test(path);
  });
}

const BLANK = /[ \t]*/y;
const COMMENT_AND_LINE_END = /[ \t]*(?:#[^\n]*)?(?:\r?\n|$)/y;
const BARE_OR_QUOTED_KEY =
  /(?:[A-Za-z0-9_-]+|"[^"\\\n]*"|'[^'\n]*')(?:[ \t]*\.[ \t]*(?:[A-Za-z0-9_-]+|"[^"\\\n]*"|'[^'\n]*'))*/y;
const STRING = /"""(?:[^\\]|\\[^])*?"""|'''[^]*?'''|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'/y;

function match(pattern: RegExp, text: string, at: number): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0];
}

function topLevel(text: string): TopLevel | undefined {
  let version = 1;
  let versionEnd: number | undefined;
  let imports: Statement | undefined;
  let at = text.startsWith('\uFEFF') ? 1 : 0;
  while (at < text.length) {
    const empty = match(COMMENT_AND_LINE_END, text, at);
    if (empty !== undefined) {
      at += empty.length;
      if (empty === '') break;
      continue;
    }
    const start = at + (match(BLANK, text, at)?.length ?? 0);
    if (text[start] === '[') break; // the first table
    const statement = readStatement(text, start);
    if (statement === undefined) return undefined;
    if (statement.key === 'version') {
      const value = text.slice(statement.valueStart, statement.valueEnd);
      if (!/^\d+$/.test(value)) return undefined;
      version = Number(value);
      versionEnd = statement.lineEnd;
    } else if (statement.key === 'imports') {
      if (imports !== undefined || text[statement.valueStart] !== '[') return undefined;
      imports = statement;
    }
    at = statement.lineEnd;
  }
  return { version, versionEnd, imports };
}

function readStatement(text: string, start: number): Statement | undefined {
  const rawKey = match(BARE_OR_QUOTED_KEY, text, start);
  if (rawKey === undefined) return undefined;
  const equals = match(/[ \t]*=[ \t]*/y, text, start + rawKey.length);
  if (equals === undefined) return undefined;
  const valueStart = start + rawKey.length + equals.length;
  const valueEnd = endOfValue(text, valueStart);
  if (valueEnd === undefined) return undefined;
  const rest = match(COMMENT_AND_LINE_END, text, valueEnd);
  if (rest === undefined) return undefined;
  return {
    key: /^(["'])(.*)\1$/.exec(rawKey)?.[2] ?? rawKey,
    start,
    valueStart,
    valueEnd,
    lineEnd: valueEnd + rest.length,
  };
}

/** Offset behind a value: strings and brackets are followed, so that a `#` or line break inside does not end it. */
function endOfValue(text: string, start: number): number | undefined {
  let depth = 0;
  let at = start;
  while (at < text.length) {
    const c = text[at] ?? '';
    if (c === '"' || c === "'") {
      const string = match(STRING, text, at);
      if (string === undefined) return undefined;
      at += string.length;
    } else if (c === '[' || c === '{') {
      depth++;
      at++;
    } else if (c === ']' || c === '}') {
      if (depth === 0) return undefined;
      depth--;
      at++;
    } else if (depth === 0 && (c === '\n' || c === '\r' || c === '#')) break;
    else if (c === '#') at += match(/[^\n]*/y, text, at)?.length ?? 1;
    else at++;
  }
  if (depth > 0) return undefined;
  const end = start + text.slice(start, at).trimEnd().length;
  return end === start ? undefined : end;
}

/** The strings of a list of nothing but plain strings. Undefined if it is anything else. */
function listItems(
  text: string,
  { valueStart, valueEnd }: Statement,
): readonly { value: string; start: number; end: number }[] | undefined {
  const items: { value: string; start: number; end: number }[] = [];
  const last = valueEnd - 1;
  if (text[last] !== ']') return undefined;
  let at = valueStart + 1;
  let mayHaveItem = true;
  while (at < last) {
    const gap = match(/(?:\s|#[^\n]*\n)+/y, text, at);
    if (gap !== undefined) {
      at += gap.length;
      continue;
    }
    if (text[at] === ',') {
      if (mayHaveItem) return undefined;
      mayHaveItem = true;
      at++;
      continue;
    }
    const string = mayHaveItem ? match(/"[^"\\\n]*"|'[^'\n]*'/y, text, at) : undefined;
    if (string === undefined) return undefined;
    items.push({ value: string.slice(1, -1), start: at, end: at + string.length });
    at += string.length;
    mayHaveItem = false;
  }
  return items;
}
