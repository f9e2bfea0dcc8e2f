/**
 * Makes an image whose bytes come out of a gzip file by its index, as those of a TurboOCI image do:
 * `node dist/bench/support/gzip-image.js TAR DIR` writes what it needs into DIR, and `gzip.json` last. The disk is the archive itself, which no file system has to understand here.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SECTOR } from '../../src/blob/index.js';
import {
  encodeHeader,
  HEADER_SECTORS,
  HeaderFlag,
  SEGMENT_WORDS,
  setDiskEntry,
} from '../../src/lsmt/index.js';
import { gzipWithIndex } from '../../test/gzip/build-index.js';

/** As the reference's converter sets it. */
const SPAN = 1 << 20;
/** Of one entry. */
const MAX_SECTORS = 16376;
const PAGE = 4096;

const [tar = '', dir = '.'] = process.argv.slice(2);
const plain = readFileSync(tar);
const { gzip, index } = gzipWithIndex(plain, SPAN);
writeFileSync(join(dir, 'gzip.target'), gzip);
writeFileSync(join(dir, 'gzip.index'), index);

const virtualSize = plain.byteLength - (plain.byteLength % PAGE);
// As in every layer of that kind, something lies in its own file (tag 0): here the first page. The rest is the target's.
const page = PAGE / SECTOR;
const entries = [{ offset: 0, length: page, moffset: HEADER_SECTORS, zeroed: false, tag: 0 }];
for (let offset = page; offset < virtualSize / SECTOR; offset += MAX_SECTORS)
  entries.push({
    offset,
    length: Math.min(MAX_SECTORS, virtualSize / SECTOR - offset),
    moffset: offset,
    zeroed: false,
    tag: 1,
  });
const words = new Uint32Array(entries.length * SEGMENT_WORDS);
entries.forEach((entry, i) => {
  setDiskEntry(words, i, entry);
});
const { HEADER, DATA, SEALED } = HeaderFlag;
const header = encodeHeader({ flags: HEADER | DATA | SEALED, virtualSize });
const trailer = encodeHeader({
  flags: DATA | SEALED,
  virtualSize,
  indexOffset: header.byteLength + PAGE,
  indexCount: entries.length,
});
const warp = [header, plain.subarray(0, PAGE), new Uint8Array(words.buffer), trailer];
writeFileSync(join(dir, 'gzip.warp'), Buffer.concat(warp));
const at = (name: string): string => join(dir, name);
writeFileSync(
  join(dir, 'gzip.json'),
  JSON.stringify({
    lowers: [{ file: at('gzip.warp'), targetFile: at('gzip.target'), gzipIndex: at('gzip.index') }],
    resultFile: '',
  }),
);
