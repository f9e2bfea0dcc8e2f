/** `obd` for Node.js flags: `node --trace-gc dist/bench/support/obd.js ...`. */
import { main } from '../../src/cli/obd.js';

await main(process.argv.slice(2));
