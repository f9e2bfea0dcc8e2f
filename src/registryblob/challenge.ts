/**
 * `WWW-Authenticate` (RFC 9110, 11.6.1): a comma-separated list of challenges whose parameters are separated by commas
 * as well, with quoted strings that may hold commas (`scope="repository:a:pull,push"`). Read character by character,
 * because splitting at commas is wrong in both directions.
 */

/** One challenge. Scheme and parameter names in lower case. */
export interface Challenge {
  readonly scheme: string;
  readonly parameters: ReadonlyMap<string, string>;
}

const TOKEN = /[!#$%&'*+\-.^_`|~0-9A-Za-z]/;
/** More than any real header has; a bound against a hostile one. */
const MAX_CHALLENGES = 16;

/** Parses the header. What cannot be understood is skipped up to the next comma; never throws. */
export function parseChallenges(header: string): Challenge[] {
  const text = header.slice(0, 16_384);
  const found: { scheme: string; parameters: Map<string, string> }[] = [];
  let at = 0;
  const skipBlanks = (): void => {
    while (text[at] === ' ' || text[at] === '\t') at++;
  };
  const token = (): string => {
    const start = at;
    while (at < text.length && TOKEN.test(text.charAt(at))) at++;
    return text.slice(start, at);
  };
  const quoted = (): string => {
    let value = '';
    for (at++; at < text.length && text[at] !== '"'; at++) {
      if (text[at] === '\\' && at + 1 < text.length) at++;
      value += text.charAt(at);
    }
    at++;
    return value;
  };
  while (at < text.length && found.length < MAX_CHALLENGES) {
    skipBlanks();
    if (text[at] === ',') {
      at++;
      continue;
    }
    const word = token();
    if (word === '') {
      while (at < text.length && text[at] !== ',') at++;
      continue;
    }
    const afterWord = at;
    skipBlanks();
    const current = found.at(-1);
    if (text[at] === '=' && current !== undefined) {
      at++;
      skipBlanks();
      current.parameters.set(word.toLowerCase(), text[at] === '"' ? quoted() : token());
      continue;
    }
    // A scheme. `token68` credentials (Negotiate, NTLM) may follow it directly; they are of no use to us.
    found.push({ scheme: word.toLowerCase(), parameters: new Map() });
    if (afterWord === at) continue;
    const here = at;
    const next = token();
    skipBlanks();
    if (
      next === '' ||
      (text[at] === '=' && text[at + 1] !== '=' && text[at + 1] !== ',' && at + 1 < text.length)
    )
      at = here;
    else while (at < text.length && text[at] !== ',') at++;
  }
  return found;
}
