import { getSystemErrorName } from 'node:util';

/** An error like those of node:fs, so that `ioError` understands it. */
export function systemError(negativeErrno: number, syscall: string): NodeJS.ErrnoException {
  const code = getSystemErrorName(negativeErrno);
  return Object.assign(new Error(`${code}: ${syscall}`), { code, errno: negativeErrno, syscall });
}
