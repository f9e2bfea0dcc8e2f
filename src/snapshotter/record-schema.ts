import { z } from 'zod';

/** A record as it lies in the store. */
export const recordSchema = z.object({
  id: z.number(),
  name: z.string(),
  parent: z.string(),
  kind: z.enum(['view', 'active', 'committed']),
  labels: z.record(z.string(), z.string()),
  createdAt: z.number(),
  updatedAt: z.number(),
  usage: z.object({ size: z.number(), inodes: z.number() }).exactOptional(),
});
