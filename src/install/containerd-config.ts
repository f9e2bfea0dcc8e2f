/**
 * containerd's configuration: a drop-in of our own, and one entry in the `imports` of the main file, if containerd itself
 * shows that this does what it should. Versions merge imported files in different ways (1.x replaces a plugin's whole
 * section, 2.x merges keys, a 2.x that migrates an older file may do neither), so nothing is assumed: copies of both files
 * are given to `containerd config dump`, before and after, and the two results must differ in our settings only. A part
 * that fails this is left out of the drop-in and given to the person as text.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { ioError, isSystemError } from '../blob/index.js';
import {
  containerdDropIn,
  criSettings,
  knowsExports,
  machinePlatform,
  transferSettings,
  type SnippetOptions,
  type SnippetParts,
} from './containerd-snippet.js';
import { lossOf } from './containerd-dump.js';
import { configVersion, importsOf, isImported, withImport, withImports } from './toml-imports.js';

const run = promisify(execFile);
/** Printing a configuration takes a fraction of a second. */
const PROGRAM_TIMEOUT_MS = 20_000;

/** What is known before containerd is asked. */
export interface ContainerdPlanOptions {
  /** The main configuration's path as containerd has it; the drop-in goes to `conf.d` beside it. */
  readonly configPath: string;
  /** Directory below which the target's files lie; `/` for this machine. */
  readonly root: string;
  /** containerd to prove with; undefined: there is none, and the main file stays as it is. */
  readonly program: string | undefined;
  /** Version of the configuration, where there is no main file to say it. */
  readonly version?: number | undefined;
  readonly address: string;
  readonly snapshotsRoot: string;
  readonly cri: boolean;
}

/** Settings that a person has to put in place, and why. */
export interface ManualStep {
  readonly reason: string;
  /** Lines for containerd's main configuration. */
  readonly snippet: string;
}

/** What is to be done to containerd's configuration. */
export interface ContainerdPlan {
  /** Where the drop-in goes, as containerd sees it. */
  readonly dropInPath: string;
  readonly dropIn: string;
  /** The main file's new text; undefined: it stays as it is. */
  readonly config: { readonly text: string; readonly isNew: boolean } | undefined;
  readonly manual: readonly ManualStep[];
  /** What `containerd --version` said. */
  readonly program: string | undefined;
}

/**
 * Our drop-in, and what the main file imports: a pattern, because containerd does not start when a file is missing that is
 * imported by its name, and one that matches nothing but ours.
 */
export function dropInOf(configPath: string): { readonly dropInPath: string; readonly pattern: string } {
  const dir = join(dirname(configPath), 'conf.d');
  return { dropInPath: join(dir, 'overlaybd.toml'), pattern: join(dir, 'overlaybd*.toml') };
}

/** Finds out what to do; changes nothing but temporary files. @throws IoError */
export async function planContainerd(options: ContainerdPlanOptions): Promise<ContainerdPlan> {
  const { dropInPath, pattern } = dropInOf(options.configPath);
  const main = await readOptional(join(options.root, options.configPath));
  const found =
    options.program === undefined ? undefined : await programVersion(options.program).catch(() => undefined);
  const mainVersion = main === undefined ? undefined : configVersion(main);
  const version = mainVersion ?? options.version ?? (found !== undefined && found.numbers[0] >= 2 ? 3 : 2);
  const snippet: SnippetOptions = {
    version,
    program: found?.numbers,
    address: options.address,
    root: options.snapshotsRoot,
    platform: machinePlatform(),
  };
  const importLine = { reason: '', snippet: `imports = ["${pattern}"]\n` };
  const least = {
    dropInPath,
    dropIn: containerdDropIn(snippet, { cri: false, transfer: false }),
    config: undefined,
    program: found?.text,
  };
  const byHand = (reason: string): ContainerdPlan => ({
    ...least,
    manual: [
      { ...importLine, reason },
      ...(options.cri ? [{ reason: "Kubernetes' settings", snippet: criSettings(snippet) }] : []),
    ],
  });
  if (/[*?[\\"\n]/.test(options.configPath))
    return byHand(`The path "${options.configPath}" has characters that mean something in "imports"`);
  if (main !== undefined && mainVersion === undefined)
    return byHand(`"${options.configPath}" is not understood, and stays as it is`);
  if (options.program === undefined || found === undefined)
    return byHand(
      `There is no containerd program here to check a change of "${options.configPath}" with, so it stays as it is`,
    );
  const current = main ?? `version = ${version}\n`;
  const imports = importsOf(current);
  const text = imports === undefined ? undefined : withImport(current, pattern);
  if (imports === undefined || text === undefined)
    return byHand(`"imports" of "${options.configPath}" is not understood, and stays as it is`);
  const others = await expandImports(imports, options.root, dropInPath);
  if (others === undefined)
    return byHand(`"imports" of "${options.configPath}" has patterns that cannot be tried elsewhere`);
  const wanted: SnippetParts = { cri: options.cri, transfer: transferSettings(snippet) !== '' };
  const reasons = new Map<string, string>();
  for (const parts of subsets(wanted)) {
    const dropIn = containerdDropIn(snippet, parts);
    const loss = await tryOut(options, current, others, dropIn, parts);
    if (loss !== undefined) {
      reasons.set(JSON.stringify(parts), loss);
      continue;
    }
    const manual: ManualStep[] = [];
    if (wanted.cri && !parts.cri)
      manual.push({
        reason: `Kubernetes' settings cannot be imported: ${reasons.get(JSON.stringify({ ...parts, cri: true })) ?? ''}`,
        snippet: criSettings(snippet),
      });
    if (wanted.transfer && !parts.transfer && knowsExports(snippet))
      manual.push({
        reason: `The transfer service's settings cannot be imported: ${reasons.get(JSON.stringify({ ...parts, transfer: true })) ?? ''}`,
        snippet: transferSettings(snippet),
      });
    const enough = main !== undefined && (text === current || isImported(imports, dropInPath));
    return {
      ...least,
      dropIn,
      config: enough ? undefined : { text, isNew: main === undefined },
      manual,
    };
  }
  return byHand(
    `containerd does not take an imported "${dropInPath}": ${reasons.get(JSON.stringify({ cri: false, transfer: false })) ?? ''}`,
  );
}

/** All there is to try, most first. */
function subsets({ cri, transfer }: SnippetParts): SnippetParts[] {
  const all = [
    { cri: true, transfer: true },
    { cri: false, transfer: true },
    { cri: true, transfer: false },
    { cri: false, transfer: false },
  ];
  return all.filter((parts) => (cri || !parts.cri) && (transfer || !parts.transfer));
}

/** Why a drop-in does not do what it should, or does more; undefined if all is well. */
async function tryOut(
  { program = '', address }: ContainerdPlanOptions,
  current: string,
  others: readonly string[],
  dropIn: string,
  parts: SnippetParts,
): Promise<string | undefined> {
  const dir = await mkdtemp(join(tmpdir(), 'obd-install-'));
  try {
    const [before, after, ours] = [
      join(dir, 'before.toml'),
      join(dir, 'after.toml'),
      join(dir, 'drop-in.toml'),
    ];
    await writeFile(ours, dropIn);
    await writeFile(before, withImports(current, others));
    await writeFile(after, withImports(current, [ours, ...others]));
    return lossOf(await dump(program, before), await dump(program, after), { address, ...parts });
  } catch (error) {
    const said = (error as { stderr?: unknown }).stderr;
    const text = typeof said === 'string' && said.trim() !== '' ? said.trim().split('\n').at(-1) : undefined;
    return `"${program} config dump" fails: ${text ?? (error instanceof Error ? error.message : String(error))}`;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function dump(program: string, config: string): Promise<string> {
  const { stdout } = await run(program, ['--config', config, 'config', 'dump'], {
    timeout: PROGRAM_TIMEOUT_MS,
    cwd: '/',
    maxBuffer: 4 << 20,
  });
  return stdout;
}

/** Version of a containerd program. @throws if it does not run or says something else. */
export async function programVersion(
  program: string,
  timeoutMs: number = PROGRAM_TIMEOUT_MS,
): Promise<{ readonly text: string; readonly numbers: readonly [number, number] }> {
  const { stdout } = await run(program, ['--version'], {
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  });
  const version = /\bv?(\d+)\.(\d+)\.\d+\S*/.exec(stdout);
  if (version === null) throw new Error(`"${program} --version" says "${stdout.trim()}"`);
  return { text: version[0].replace(/^v/, ''), numbers: [Number(version[1]), Number(version[2])] };
}

/**
 * The files that an `imports` list means, on this machine's disk, without our own. Undefined if there is a pattern that
 * cannot be looked up the way every containerd does: a relative one, or one with stars in its directories.
 */
async function expandImports(
  imports: readonly string[],
  root: string,
  ours: string,
): Promise<string[] | undefined> {
  const files: string[] = [];
  for (const entry of imports) {
    const [dir, name] = [dirname(entry), basename(entry)];
    if (!entry.startsWith('/') || /[*?[]/.test(dir) || /[?[\\]/.test(name)) return undefined;
    const names = name.includes('*')
      ? (await readdir(join(root, dir)).catch(() => []))
          .sort()
          .filter((n) => isImported([entry], join(dir, n)))
      : [name];
    files.push(...names.map((n) => join(dir, n)).filter((path) => path !== ours));
  }
  return files.map((path) => join(root, path));
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isSystemError(error) && error.code === 'ENOENT') return undefined;
    throw ioError(error, `read "${path}"`, path);
  }
}
