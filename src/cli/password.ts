/** Passwords, without showing them or taking them from the command line. */
import { ConfigError } from '../blob/index.js';
import type { Credential } from '../registryblob/index.js';

/** Longest password or token that anyone has. */
const MAX_PASSWORD = 64 * 1024;

/** How credentials were given. */
export interface LoginOptions {
  /** `USER` or `USER:PASSWORD`. */
  readonly user?: string | undefined;
  readonly passwordStdin?: boolean | undefined;
  /** An OAuth2 refresh token. */
  readonly refresh?: string | undefined;
}

/**
 * Credentials from options: the password from the option, from standard input, or asked for on the terminal.
 * @returns undefined if none were given. @throws ConfigError
 */
export async function readLogin(options: LoginOptions): Promise<Credential | undefined> {
  const { user, passwordStdin = false, refresh } = options;
  if (refresh !== undefined) return { username: user ?? '', password: '', identityToken: refresh };
  if (user === undefined) {
    if (passwordStdin) throw new ConfigError('OBD_CONFIG_VALUE', '--password-stdin needs --user');
    return undefined;
  }
  const colon = user.indexOf(':');
  if (colon >= 0) return { username: user.slice(0, colon), password: user.slice(colon + 1) };
  if (passwordStdin) return { username: user, password: (await readAll()).replace(/\r?\n$/, '') };
  if (!process.stdin.isTTY)
    throw new ConfigError('OBD_CONFIG_VALUE', `There is no password for user "${user}"`, {
      hint: 'Give it on standard input with --password-stdin, or use "docker login" and leave --user out',
    });
  return { username: user, password: await ask(`Password of ${user}: `) };
}

async function readAll(): Promise<string> {
  let text = '';
  for await (const chunk of process.stdin) {
    text += String(chunk);
    if (text.length > MAX_PASSWORD)
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `The password on standard input has more than ${MAX_PASSWORD} characters`,
      );
  }
  return text;
}

/** One line from the terminal, not shown. */
function ask(prompt: string): Promise<string> {
  const { stdin, stderr } = process;
  stderr.write(prompt);
  stdin.setRawMode(true);
  stdin.setEncoding('utf8');
  return new Promise((resolve, reject) => {
    let text = '';
    const end = (error?: Error): void => {
      stdin.off('data', take);
      stdin.setRawMode(false);
      stdin.pause();
      stderr.write('\n');
      if (error === undefined) resolve(text);
      else reject(error);
    };
    const take = (typed: string): void => {
      for (const key of typed) {
        if (key === '\r' || key === '\n') {
          end();
          return;
        }
        if (key === '\u0003' || key === '\u0004') {
          end(new ConfigError('OBD_CONFIG_VALUE', 'No password was given'));
          return;
        }
        if (key === '\u007f' || key === '\b') text = text.slice(0, -1);
        else text += key;
      }
    };
    stdin.on('data', take);
    stdin.resume();
  });
}
