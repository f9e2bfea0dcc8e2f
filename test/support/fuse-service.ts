/** A process that serves memory through FUSE until it is killed: prints the device's path. Argument: size in bytes. */
import { MemoryBlob } from '../../src/blob/index.js';
import { BlockDevice, FuseFrontEnd, IoWorkers } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';

const size = Number(process.argv[2]);
const workers = new IoWorkers({ logger: silentLogger, count: 1 });
const front = new FuseFrontEnd({
  open: async () => new BlockDevice(new MemoryBlob(new Uint8Array(size))),
  workers,
  logger: silentLogger,
});
const { devicePath } = await front.attach({ id: 'child', configPath: '/x' });
process.stdout.write(`${devicePath}\n`);
setInterval(() => undefined, 60_000);
