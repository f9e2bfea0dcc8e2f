import { kernelAdvice, missingOf, type KernelReport } from './kernel.js';

/** Something that the kernel lacks. */
export interface KernelProblem {
  /** Nothing works without it. */
  readonly fatal: boolean;
  readonly text: string;
  readonly todo: string;
}

/**
 * What the kernel lacks. Without TCMU there is FUSE; without both, or overlayfs, nothing works.
 * @param osRelease text of /etc/os-release.
 */
export function kernelProblems(kernel: KernelReport, osRelease: string): KernelProblem[] {
  const [tcmu, fuse, common] = [missingOf(kernel.tcmu), missingOf(kernel.fuse), missingOf(kernel.common)];
  const names = (features: readonly { module: string }[]): string =>
    features.map(({ module }) => module).join(', ');
  const problems: KernelProblem[] = [];
  const both = tcmu.length > 0 && fuse.length > 0;
  const advice = (features: typeof tcmu): string => kernelAdvice(features, osRelease, kernel.release);
  if (tcmu.length > 0)
    problems.push({
      fatal: both,
      text: `Kernel ${kernel.release} has no ${names(tcmu)}: ${both ? 'no devices through TCMU' : 'devices go through FUSE and loop, and end with the service'}`,
      todo: advice(tcmu),
    });
  if (fuse.length > 0)
    problems.push({
      fatal: both,
      text: `Kernel ${kernel.release} has no ${names(fuse)}: no devices through FUSE`,
      todo: advice(fuse),
    });
  if (common.length > 0)
    problems.push({
      fatal: true,
      text: `Kernel ${kernel.release} has no ${names(common)}`,
      todo: advice(common),
    });
  return problems;
}
