/** A small OCI distribution server over a directory, with failures and slowness on request. */
export { parseDuration, parseFault, parseRate, type Fault } from './faults.js';
export {
  startRegistryServer,
  type RegistryServer,
  type RegistryServerOptions,
  type ServedRequest,
} from './server.js';
