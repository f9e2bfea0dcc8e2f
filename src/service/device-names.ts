import { basename, dirname } from 'node:path';

/** `/a/b/image.json` is "image"; the usual name says nothing, so `/a/b/config.v1.json` is "b". */
export function configName(path: string): string {
  const name = basename(path).replace(/\.json$/, '');
  return name === 'config.v1' || name === 'config' ? basename(dirname(path)) : name;
}

/** `docker://host/library/debian:12` is "debian", `oci:/srv/images/app:1` is "app". */
export function imageName(image: string): string {
  const path = image.replace(/@.*$/, '').replace(/:[^:/]*$/, '');
  return basename(path.replace(/^[a-z-]+:(\/\/)?/, '')) || 'device';
}
