/** The tables of `obd inspect`. */
import type { InspectedArtifact, Inspection, UpperReport } from './inspect.js';
import type { HeaderReport, LsmtReport, MappingReport, ZFileReport } from './layer-report.js';
import { formatShare, formatSize, formatTable } from './units.js';

/** The whole text. */
export function printInspection(inspection: Inspection): string {
  const { layers, upper, stack, manifest } = inspection;
  const parts: string[] = [];
  if (inspection.kind !== 'file') {
    parts.push(`${inspection.name}\n`);
    if (manifest !== undefined) parts.push(`manifest  ${manifest.digest}  ${manifest.mediaType}\n`);
    parts.push('\n', overview(layers), '\n');
  }
  if (inspection.kind !== 'image') for (const layer of layers) parts.push(details(layer), '\n');
  else for (const layer of layers) if (layer.fault !== undefined) parts.push(details(layer), '\n');
  if (upper !== undefined) parts.push(upperDetails(upper), '\n');
  for (const layer of layers)
    if (layer.lsmt?.index !== undefined) parts.push(indexTable(layer, layer.lsmt.index));
  if (stack !== undefined && (inspection.kind !== 'file' || stack.map !== undefined)) {
    parts.push(
      `disk of ${formatSize(stack.virtualSize)} (${stack.virtualSize} bytes): ${mapping(stack.mapping)}\n`,
    );
    if (stack.map !== undefined)
      parts.push(
        formatTable([
          ['SECTOR', 'SECTORS', 'LAYER', 'AT'],
          ...stack.map.map(([at, sectors, layer, moffset]) => [
            String(at),
            String(sectors),
            String(layer),
            moffset === 'zero' ? 'zeroes' : String(moffset),
          ]),
        ]),
      );
  }
  return parts.join('');
}

function overview(layers: readonly InspectedArtifact[]): string {
  return formatTable([
    ['LAYER', 'STORED', 'PLAIN', 'CODEC', 'SEGMENTS', 'DATA', 'ZEROED', 'UUID', 'NAME'],
    ...layers.map((layer) => [
      String(layer.number),
      formatSize(layer.storedSize),
      layer.zfile === undefined ? '-' : formatSize(layer.zfile.plainSize),
      layer.zfile === undefined ? (layer.lsmt === undefined ? layer.kind : 'none') : codec(layer.zfile),
      layer.lsmt?.mapping === undefined ? '-' : String(layer.lsmt.mapping.segments),
      layer.lsmt?.mapping === undefined ? '-' : formatSize(layer.lsmt.mapping.dataBytes),
      layer.lsmt?.mapping === undefined ? '-' : formatSize(layer.lsmt.mapping.zeroedBytes),
      (layer.lsmt?.trailer ?? layer.lsmt?.header)?.uuid ?? '-',
      layer.digest ?? layer.name,
    ]),
  ]);
}

function codec(zfile: ZFileReport): string {
  return `${zfile.codec} ${zfile.blockSize / 1024}k`;
}

function details(layer: InspectedArtifact): string {
  const rows: string[][] = [['layer', layer.name]];
  if (layer.digest !== undefined) rows.push(['digest', layer.digest]);
  rows.push(['stored', bytes(layer.storedSize)]);
  if (layer.tar !== undefined)
    rows.push(['tar', `payload of ${bytes(layer.tar.payloadSize)} at byte ${layer.tar.payloadOffset}`]);
  if (layer.zfile !== undefined) rows.push(...zfileRows(layer.zfile));
  if (layer.lsmt !== undefined) rows.push(...lsmtRows(layer.lsmt));
  if (layer.fault !== undefined) rows.push(['FAULT', `${layer.fault.message} [${layer.fault.code}]`]);
  return keyed(rows);
}

/** Key and value, the keys padded; values are text, whatever they look like. */
function keyed(rows: readonly (readonly string[])[]): string {
  return rows.map(([key = '', value = '']) => `${key.padEnd(14)}${value}\n`).join('');
}

function bytes(size: number): string {
  return size < 1024 ? `${size} bytes` : `${formatSize(size)} (${size} bytes)`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function zfileRows(zfile: ZFileReport): string[][] {
  const { storedBlock } = zfile;
  return [
    [
      'zfile',
      `${zfile.codec}, blocks of ${formatSize(zfile.blockSize)} ${zfile.blockChecksums ? 'with' : 'WITHOUT'} checksums`,
    ],
    [
      '  plain',
      `${bytes(zfile.plainSize)}, stored in ${formatShare(zfile.storedSize, zfile.plainSize)} of that`,
    ],
    [
      '  table',
      `${zfile.blocks} blocks, at byte ${zfile.indexOffset}, crc ${hex(zfile.indexCrc)}` +
        (storedBlock === undefined
          ? ''
          : `; stored blocks of ${storedBlock.least} to ${storedBlock.most} bytes, ${storedBlock.mean} on average`),
    ],
    [
      '  flags',
      `${hex(zfile.flags)}${zfile.legacyHeader ? ', legacy header (fields beyond the first are noise)' : ''}`,
    ],
  ];
}

function lsmtRows(lsmt: LsmtReport): string[][] {
  const rows: string[][] = [['lsmt', lsmt.kind + (lsmt.sparse ? ', sparse' : '')]];
  rows.push(['  header', header(lsmt.header)]);
  if (lsmt.trailer !== undefined) rows.push(['  trailer', header(lsmt.trailer)]);
  if (lsmt.virtualSize !== undefined)
    rows.push([
      '  disk',
      lsmt.virtualSize === 0 ? 'as large as the layer below says' : bytes(lsmt.virtualSize),
    ]);
  const end = lsmt.trailer ?? lsmt.header;
  rows.push(['  uuid', `${end.uuid ?? 'none'}, parent ${end.parentUuid ?? 'none'}`]);
  if (end.userTag !== '') rows.push(['  user tag', JSON.stringify(end.userTag)]);
  if (lsmt.indexCount !== undefined)
    rows.push([
      '  index',
      `${lsmt.indexCount} entries at byte ${lsmt.indexOffset ?? 0}, ${lsmt.paddingEntries ?? 0} of them padding; tags ${(lsmt.tagsOnDisk ?? []).join(', ') || 'none'}`,
    ]);
  if (lsmt.mapping !== undefined) rows.push(['  mapping', mapping(lsmt.mapping)]);
  return rows;
}

function header(block: HeaderReport): string {
  return `flags ${hex(block.flags)}, index offset ${block.indexOffset}, index count ${block.indexCount}, virtual size ${block.virtualSize}`;
}

function mapping(map: MappingReport): string {
  if (map.segments === 0) return 'empty';
  return `${formatSize(map.dataBytes)} in ${map.dataSegments} segments, zeroes over ${formatSize(map.zeroedBytes)} in ${map.zeroedSegments}, sectors ${map.firstSector ?? 0} to ${map.endSector ?? 0}`;
}

function upperDetails(upper: UpperReport): string {
  const rows: string[][] = [['writable', upper.data]];
  if (upper.index !== undefined) rows.push(['index file', upper.index]);
  if (upper.kind !== undefined)
    rows.push(
      ['  kind', upper.kind],
      [
        '  disk',
        upper.virtualSize === 0 ? 'as large as the layer below says' : bytes(upper.virtualSize ?? 0),
      ],
      ['  uuid', `${upper.uuid ?? 'none'}, parent ${upper.parentUuid ?? 'none'}`],
    );
  if (upper.mapping !== undefined) rows.push(['  mapping', mapping(upper.mapping)]);
  if (upper.damage !== undefined) rows.push(['  DAMAGE', upper.damage]);
  if (upper.fault !== undefined) rows.push(['  FAULT', `${upper.fault.message} [${upper.fault.code}]`]);
  return keyed(rows);
}

function indexTable(layer: InspectedArtifact, index: NonNullable<LsmtReport['index']>): string {
  return (
    `index of layer ${layer.number}\n` +
    formatTable([
      ['ENTRY', 'SECTOR', 'SECTORS', 'AT', 'TAG'],
      ...index.map(([offset, length, moffset, tag], i) => [
        String(i),
        String(offset),
        String(length),
        moffset === 'zero' ? 'zeroes' : String(moffset),
        String(tag),
      ]),
    ]) +
    '\n'
  );
}
