/** The options by which commands reach containerd; names and environment variables are those of `ctr`. */
import type { Command } from 'commander';
import { ContainerdImage, type ContainerdPlace } from '../containerd/index.js';
import type { ImageOpeners } from '../oci/index.js';

/** What {@link addContainerdOptions} parses: a {@link ContainerdPlace}. */
export type ContainerdOptions = ContainerdPlace;

/** Adds the options to a command. */
export function addContainerdOptions(command: Command): Command {
  return command
    .option(
      '-a, --address <socket>',
      "containerd's socket (default: $CONTAINERD_ADDRESS or /run/containerd/containerd.sock)",
    )
    .option('-n, --namespace <name>', 'containerd namespace (default: $CONTAINERD_NAMESPACE or "default")');
}

/** Opens `containerd:` names in the containerd of the options. */
export function containerdImages({ address, namespace }: ContainerdOptions): ImageOpeners {
  return { containerd: (image) => new ContainerdImage(image, { address, namespace }) };
}
