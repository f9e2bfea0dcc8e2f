import { createRequire } from 'node:module';
import type * as Undici from 'undici';

const require = createRequire(import.meta.url);

/**
 * A pool of HTTP connections. undici is loaded with the first one: that takes 50 ms of CPU time, and most commands on
 * local files never open a connection.
 */
export function newAgent(options: Undici.Agent.Options): Undici.Agent {
  const { Agent } = require('undici') as typeof Undici;
  return new Agent(options);
}
