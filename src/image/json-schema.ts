/**
 * Reading the JSON configuration files of overlaybd. A value of the wrong type or out of its range is an error that
 * names key, expected and found. A key that nobody knows is only a warning (others' tools write their own), with the
 * nearest known name, because most often it is misspelt. Null is as good as absent: Go writes it for empty lists.
 */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { ConfigError, ioError } from '../blob/index.js';
import type { Logger } from '../log/index.js';

/** Largest unsigned 32-bit number. */
const U32_MAX = 2 ** 32 - 1;

/** Unsigned, 32 bits. */
export const u32 = (): z.ZodNumber => z.number().int().min(0).max(U32_MAX);
/** Unsigned, as far as a `number` is exact. */
export const size = (): z.ZodNumber => z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

/** Reads a configuration file. @throws IoError, ConfigError */
export async function loadJson<T extends z.ZodObject>(
  schema: T,
  path: string,
  log: Logger,
): Promise<z.output<T>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw ioError(error, `read configuration "${path}"`, path);
  }
  return parseJson(schema, text, path, log);
}

/**
 * Parses the text of a configuration file.
 * @param source how errors name it.
 * @throws ConfigError OBD_CONFIG_SYNTAX, OBD_CONFIG_VALUE
 */
export function parseJson<T extends z.ZodObject>(
  schema: T,
  text: string,
  source: string,
  log: Logger,
): z.output<T> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new ConfigError('OBD_CONFIG_SYNTAX', `Cannot read configuration "${source}": it is not JSON`, {
      source,
      cause,
    });
  }
  return checkJson(schema, json, source, log);
}

/** Checks a parsed value. @throws ConfigError OBD_CONFIG_VALUE */
export function checkJson<T extends z.ZodObject>(
  schema: T,
  json: unknown,
  source: string,
  log: Logger,
): z.output<T> {
  const value = withoutNulls(json);
  const result = schema.safeParse(value);
  if (!result.success) throw valueError(result.error.issues[0], value, source);
  warnUnknown(schema, value, '', (key, nearest) => {
    log.warn(
      { source, key, ...(nearest === undefined ? {} : { nearest }) },
      nearest === undefined
        ? 'Unknown configuration key is ignored'
        : 'Unknown configuration key is ignored, perhaps it is misspelt',
    );
  });
  return result.data;
}

function withoutNulls(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(withoutNulls);
  if (typeof json !== 'object' || json === null) return json;
  return Object.fromEntries(
    Object.entries(json)
      .filter(([, value]) => value !== null)
      .map(([key, value]) => [key, withoutNulls(value)]),
  );
}

function valueError(issue: z.core.$ZodIssue | undefined, json: unknown, source: string): ConfigError {
  const path = issue?.path ?? [];
  let found: unknown = json;
  for (const step of path)
    found =
      typeof found === 'object' && found !== null ? (found as Record<PropertyKey, unknown>)[step] : undefined;
  const key = path
    .map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`))
    .join('')
    .replace(/^\./, '');
  const expected = describeIssue(issue);
  const actual = found === undefined ? 'nothing' : JSON.stringify(found).slice(0, 100);
  return new ConfigError(
    'OBD_CONFIG_VALUE',
    `Cannot use configuration "${source}": ${key === '' ? 'the file' : `"${key}"`} is ${actual}, expected ${expected}`,
    { source, expected, actual },
  );
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  int: 'a whole number',
  array: 'a list',
  boolean: 'true or false',
};

function describeIssue(issue: z.core.$ZodIssue | undefined): string {
  switch (issue?.code) {
    case 'invalid_type':
      return (
        TYPE_NAMES[issue.expected] ?? `${/^[aeiou]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`
      );
    case 'too_small':
      return issue.origin === 'array' ? `at least ${issue.minimum} entries` : `at least ${issue.minimum}`;
    case 'too_big':
      return issue.origin === 'array' ? `at most ${issue.maximum} entries` : `at most ${issue.maximum}`;
    case 'invalid_value':
      return `one of ${issue.values.map((value) => JSON.stringify(value)).join(', ')}`;
    default:
      return issue?.message ?? 'another value';
  }
}

type Visit = (key: string, nearest: string | undefined) => void;

/** Calls `visit` for each key of `json` that `schema` does not have. */
function warnUnknown(schema: z.core.$ZodType, json: unknown, prefix: string, visit: Visit): void {
  const inner = unwrap(schema);
  if (inner instanceof z.ZodArray && Array.isArray(json)) {
    for (const [i, item] of json.entries()) warnUnknown(inner.element, item, `${prefix}[${i}]`, visit);
  } else if (inner instanceof z.ZodObject && typeof json === 'object' && json !== null) {
    const shape = inner.shape as Record<string, z.core.$ZodType>;
    for (const [key, value] of Object.entries(json)) {
      const path = prefix === '' ? key : `${prefix}.${key}`;
      const known = Object.hasOwn(shape, key) ? shape[key] : undefined;
      if (known === undefined) visit(path, nearestName(key, Object.keys(shape)));
      else warnUnknown(known, value, path, visit);
    }
  }
}

function unwrap(schema: z.core.$ZodType): z.core.$ZodType {
  let inner = schema;
  while (inner instanceof z.ZodDefault || inner instanceof z.ZodPrefault || inner instanceof z.ZodOptional)
    inner = inner.unwrap();
  return inner;
}

/** The name with the fewest changed letters, if that is at most a third of them. Case does not count. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  const lower = name.toLowerCase();
  let best: string | undefined;
  let least = Math.floor(Math.max(3, name.length) / 3) + 1;
  for (const candidate of known) {
    const changes = distance(lower, candidate.toLowerCase());
    if (changes < least) {
      least = changes;
      best = candidate;
    }
  }
  return best;
}

/** Letters to insert, remove or change to get from one word to the other. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(
        Math.min(
          (row[j] ?? 0) + 1,
          (next[j - 1] ?? 0) + 1,
          (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
        ),
      );
    row = next;
  }
  return row[b.length] ?? 0;
}
