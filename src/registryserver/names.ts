/**
 * Names in requests. What these accept can be used as file names below the server's directory: no component is empty,
 * starts with a dot, or holds a slash.
 */
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;

/** True for a repository path. */
export function isRepositoryName(text: string): boolean {
  return text.length <= 255 && text.split('/').every((part) => COMPONENT.test(part));
}

/** True for a tag. */
export function isTagName(text: string): boolean {
  return /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(text);
}

/** True for a digest that the server can check. */
export function isDigestName(text: string): boolean {
  return /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/.test(text);
}

/** Any text as a repository component, for directories that are served under their own name. */
export function componentOf(text: string): string {
  const clean = text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+|-+$/g, '');
  return clean === '' ? 'image' : clean;
}
