/** Tar members as archivers write them, made here because our own writer makes only the plainest. */

/** One member with its content, padded. */
export function tarMember(member: {
  readonly name: string;
  readonly size: number;
  readonly type: string;
  readonly content?: Buffer;
  readonly change?: (header: Buffer) => void;
}): Buffer {
  const { name, size, type } = member;
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write('0000644\0', 100);
  header.write('0000000\0', 108);
  header.write('0000000\0', 116);
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  header.write('00000000000\0', 136);
  header.write(type, 156);
  header.write('ustar\x0000', 257);
  member.change?.(header);
  header.fill(0x20, 148, 156);
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  const body = Buffer.alloc(Math.ceil(size / 512) * 512, 'x');
  member.content?.copy(body);
  return Buffer.concat([header, body]);
}

/** A PAX header with records. */
export function paxMember(records: Readonly<Record<string, string>>): Buffer {
  const lines = Object.entries(records).map(([key, value]) => {
    const rest = ` ${key}=${value}\n`;
    let length = rest.length + 1;
    while (String(length).length + rest.length !== length) length++;
    return `${length}${rest}`;
  });
  const content = Buffer.from(lines.join(''));
  return tarMember({ name: 'pax', size: content.byteLength, type: 'x', content });
}

/** Sparse files: old GNU, PAX 0.0, 0.1 and 1.0; and long names, links and whiteouts. */
export function sparseMembers(): Buffer[] {
  const map = Buffer.alloc(512);
  map.write('2\n0\n512\n4096\n512\n');
  return [
    tarMember({
      name: 'gnu-sparse',
      size: 1024,
      type: 'S',
      change: (header) => {
        header.write('ustar  \0', 257);
        ['00000000000', '00000001000', '00000010000', '00000001000'].forEach((field, i) => {
          header.write(`${field}\0`, 386 + 12 * i);
        });
        header.write('00000011000\0', 483);
      },
    }),
    paxMember({
      'GNU.sparse.major': '1',
      'GNU.sparse.minor': '0',
      'GNU.sparse.name': 'pax1',
      'GNU.sparse.realsize': '4608',
    }),
    tarMember({ name: 'x', size: 1536, type: '0', content: map }),
    paxMember({ 'GNU.sparse.map': '0,512,4096,512', 'GNU.sparse.size': '4608', 'SCHILY.xattr.user.a': 'b' }),
    tarMember({ name: 'y', size: 1024, type: '0' }),
    tarMember({ name: '././@LongLink', size: 200, type: 'L', content: Buffer.alloc(200, 'n') }),
    tarMember({ name: 'z', size: 0, type: '2', change: (header) => void header.write('../../target', 157) }),
    tarMember({ name: 'd/.wh.gone', size: 0, type: '0' }),
    tarMember({ name: 'd/.wh..wh..opq', size: 0, type: '0' }),
    tarMember({ name: 'dev', size: 0, type: '3' }),
  ];
}
