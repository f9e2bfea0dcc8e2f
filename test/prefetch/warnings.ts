import { silentLogger, type Logger } from '../../src/log/index.js';

/** A logger, and the messages of the warnings that it was given. */
export function warningLog(): { log: Logger; warnings: string[] } {
  const warnings: string[] = [];
  const warn = (_fields: unknown, message: string): void => void warnings.push(message);
  // The other forms of pino's methods are not used in this program.
  return { warnings, log: { ...silentLogger, warn } as unknown as Logger };
}
