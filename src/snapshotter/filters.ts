/**
 * Filters of List, in containerd's language:
 *
 *   filter    := selector ("," selector)*            all must hold
 *   selector  := field ("." field)* (operator value)?
 *   field     := quoted | letters, digits, "_"
 *   operator  := "==" | "!=" | "~="                  the last is a regular expression
 *   value     := quoted | anything but space and comma
 *   quoted    := a Go string; after "~=" also between bars or slashes
 *
 * A selector without operator asks whether the field is there.
 */
import { SnapshotError } from '../blob/index.js';
import type { SnapshotRecord } from './records.js';

/** True if a snapshot is wanted. */
export type Filter = (snapshot: SnapshotRecord) => boolean;

/** Filters are alternatives; none at all lets everything through. @throws SnapshotError OBD_SNAPSHOT_INVALID */
export function parseFilters(texts: readonly string[]): Filter {
  if (texts.length === 0) return () => true;
  const alternatives = texts.map(parseFilter);
  return (snapshot) => alternatives.some((matches) => matches(snapshot));
}

function parseFilter(text: string): Filter {
  if (text === '') return () => true;
  const parser = new Parser(text);
  const selectors = [parser.selector()];
  while (parser.take(/,/y) !== undefined) selectors.push(parser.selector());
  parser.expectEnd();
  return (snapshot) => selectors.every((matches) => matches(snapshot));
}

/** The value of a field, or undefined if the snapshot does not have it. */
function fieldOf(snapshot: SnapshotRecord, path: readonly string[]): string | undefined {
  const [first, ...rest] = path;
  switch (first) {
    case 'name':
      return snapshot.name;
    case 'parent':
      return snapshot.parent;
    case 'kind':
      return snapshot.kind;
    case 'labels': {
      const key = rest.join('.');
      return Object.hasOwn(snapshot.labels, key) ? snapshot.labels[key] : undefined;
    }
    default:
      return undefined;
  }
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  selector(): Filter {
    const path = [this.#field()];
    while (this.take(/\./y) !== undefined) path.push(this.#field());
    const operator = this.take(/[=!~]=/y);
    if (operator === undefined) return (snapshot) => fieldOf(snapshot, path) !== undefined;
    const value = this.#value(operator === '~=');
    switch (operator) {
      case '==':
        return (snapshot) => fieldOf(snapshot, path) === value;
      case '!=':
        return (snapshot) => fieldOf(snapshot, path) !== value;
      default: {
        const pattern = this.#pattern(value);
        return (snapshot) => {
          const found = fieldOf(snapshot, path);
          return found !== undefined && pattern.test(found);
        };
      }
    }
  }

  /** The text that a sticky pattern matches here, which is then behind us. */
  take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  expectEnd(): void {
    if (this.#at < this.#text.length) this.#fail('"," or the end');
  }

  #field(): string {
    return this.take(/\w+/y) ?? this.#quoted(/"(?:[^"\\]|\\.)*"/y) ?? this.#fail('a field');
  }

  #value(regular: boolean): string {
    const quoted = this.#quoted(/"(?:[^"\\]|\\.)*"/y);
    if (quoted !== undefined) return quoted;
    if (regular) {
      const other = this.take(/\|(?:[^|\\]|\\.)*\||\/(?:[^/\\]|\\.)*\//sy);
      if (other !== undefined) return other.slice(1, -1).replaceAll(`\\${other[0] ?? ''}`, other[0] ?? '');
    }
    return this.take(/[^\s,]+/y) ?? this.#fail('a value');
  }

  #quoted(pattern: RegExp): string | undefined {
    const text = this.take(pattern);
    if (text === undefined) return undefined;
    const escapes: Readonly<Record<string, string>> = { a: '\x07', v: '\v', "'": "'" };
    return text
      .slice(1, -1)
      .replaceAll(
        /\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))/g,
        (_, x: string | undefined, u: string | undefined, long: string | undefined, octal, c: string) => {
          const hex = x ?? u ?? long;
          if (hex !== undefined) return this.#codePoint(parseInt(hex, 16));
          if (typeof octal === 'string') return this.#codePoint(parseInt(octal, 8));
          const simple = escapes[c] ?? ('bfnrt'.includes(c) ? (JSON.parse(`"\\${c}"`) as string) : undefined);
          if (simple !== undefined) return simple;
          return '"\\'.includes(c) ? c : this.#fail(`no escape "\\${c}"`);
        },
      );
  }

  #codePoint(value: number): string {
    return value <= 0x10ffff ? String.fromCodePoint(value) : this.#fail('a Unicode character');
  }

  #pattern(text: string): RegExp {
    try {
      return new RegExp(text, 'u');
    } catch {
      return this.#fail('a regular expression');
    }
  }

  #fail(expected: string): never {
    throw new SnapshotError(
      'OBD_SNAPSHOT_INVALID',
      `Cannot parse filter "${this.#text}": expected ${expected} at character ${this.#at + 1}`,
      { expected, offset: this.#at },
    );
  }
}
