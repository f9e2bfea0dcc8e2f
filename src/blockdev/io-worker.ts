/**
 * Main of an I/O worker: one thread, many queues. docs/data-path.md tells the whole story.
 *
 * One round: native code carries out the plans of the last round, completes, kicks and waits; then messages of main,
 * then new commands: a read whose bytes are local is planned, everything else is posted to main and answered by id.
 * The thread never returns to its event loop, and a round without misses allocates nothing.
 */
import { receiveMessageOnPort, workerData } from 'node:worker_threads';
import { ReadPlan, type ReadPlanner } from '../blob/index.js';
import {
  EVENT_STRIDE,
  EventField,
  IoEvent,
  IoLoop,
  MAX_DESCRIPTORS,
  PLANNED_STRIDE,
  STOPPED,
} from '../native/index.js';
import type { FromWorker, PostedCommand, ToWorker, WorkerSetup } from './io-protocol.js';
import { ReadRecord } from './read-record.js';

interface Served {
  readonly device: number;
  planner: ReadPlanner | undefined;
  readonly reads: ReadRecord;
  errno: number;
  removing: boolean;
}

const EVENTS = 256; // commands of one round: several full SCSI queues
const PLAN_ROOM = 8 * MAX_DESCRIPTORS; // 512 KiB; a fuller plan is carried out before planning goes on

const { port, wakeFd, plannerModule } = workerData as WorkerSetup;
const createPlanner =
  plannerModule === null
    ? undefined
    : ((await import(plannerModule)) as { createPlanner: (description: unknown) => ReadPlanner })
        .createPlanner;

const loop = new IoLoop(wakeFd);
const served: (Served | undefined)[] = []; // by queue index
const events = new Float64Array(EVENTS * EVENT_STRIDE);
const batch = new Float64Array(EVENTS * PLANNED_STRIDE);
const plan = new ReadPlan(PLAN_ROOM);
let planned = 0;
let outbox: PostedCommand[] = [];
let transfers: ArrayBuffer[] = [];
let quiesces: { readonly request: number; readonly mark: number }[] = [];

function say(message: FromWorker): void {
  port.postMessage(message);
}

function remove(device: number): void {
  const index = served.findIndex((s) => s?.device === device);
  const s = served[index];
  if (s === undefined || s.removing) return;
  s.removing = true;
  loop.remove(index);
}

/** A planner that cannot be made leaves every read to main: the old one would read what is not true any more. */
function replan(device: number, description: unknown): void {
  const s = served.find((candidate) => candidate?.device === device);
  if (s === undefined) return;
  s.planner = undefined;
  if (description !== undefined) s.planner = createPlanner?.(description);
}

function receive(message: ToWorker): void {
  switch (message.type) {
    case 'serve': {
      const { request, device, handle, meter } = message;
      const reads = new ReadRecord(message.reads);
      try {
        const planner = message.planner === undefined ? undefined : createPlanner?.(message.planner);
        served[loop.add(handle, meter)] = { device, planner, reads, errno: 0, removing: false };
        say({ type: 'done', request });
      } catch (error) {
        say({ type: 'done', request, error });
      }
      break;
    }
    case 'replan':
      try {
        replan(message.device, message.planner);
        say({ type: 'done', request: message.request });
      } catch (error) {
        say({ type: 'done', request: message.request, error });
      }
      break;
    case 'remove':
      remove(message.device);
      break;
    case 'answers':
      for (const { id, status, data } of message.answers)
        if (data === undefined) loop.complete(id, status);
        else loop.completeRead(id, data);
      break;
    case 'quiesce':
      quiesces.push({ request: message.request, mark: loop.poolMark() });
      break;
  }
}

function receiveAll(): void {
  for (let m = receiveMessageOnPort(port); m !== undefined; m = receiveMessageOnPort(port))
    receive(m.message as ToWorker);
}

/** Leaves the command at `events[at]` to main. */
function postEvent(s: Served, op: number, at: number): void {
  const id = events[at + EventField.ID] ?? 0;
  const offset = events[at + EventField.OFFSET] ?? 0;
  const length = events[at + EventField.LENGTH] ?? 0;
  if (op === IoEvent.WRITE) {
    const data = new Uint8Array(length);
    loop.writeData(id, data);
    transfers.push(data.buffer);
    outbox.push({ device: s.device, id, op, offset, length, data });
  } else {
    outbox.push({ device: s.device, id, op, offset, length });
  }
}

/** A command's fields are taken from `events` where they are used: a double that is an argument is an object. */
function read(s: Served, at: number): void {
  if (s.planner === undefined) {
    s.reads.noteFrom(events, at + EventField.OFFSET, false);
    postEvent(s, IoEvent.READ, at);
    return;
  }
  if (plan.length > PLAN_ROOM - MAX_DESCRIPTORS) {
    loop.execute(batch, planned, plan);
    plan.clear();
    planned = 0;
  }
  const first = plan.length;
  const local = s.planner.plan(events, at + EventField.OFFSET, plan);
  s.reads.noteFrom(events, at + EventField.OFFSET, local);
  if (!local) {
    postEvent(s, IoEvent.READ, at);
    return;
  }
  const entry = planned++ * PLANNED_STRIDE;
  batch[entry] = events[at + EventField.ID] ?? 0;
  batch[entry + 1] = first;
  batch[entry + 2] = plan.length - first;
}

function dispatch(kind: number, s: Served, index: number, at: number): void {
  switch (kind) {
    case IoEvent.READ:
      read(s, at);
      break;
    case IoEvent.RETRY_READ:
      postEvent(s, IoEvent.READ, at);
      break;
    case IoEvent.WRITE:
    case IoEvent.DISCARD:
    case IoEvent.FLUSH:
      postEvent(s, kind, at);
      break;
    case IoEvent.QUEUE_DEAD:
      s.errno = events[at + EventField.LENGTH] ?? 0;
      remove(s.device);
      break;
    case IoEvent.QUEUE_CLOSED:
      served[index] = undefined;
      say({ type: 'gone', device: s.device, errno: s.errno });
      break;
  }
}

function round(): boolean {
  const n = loop.executeAndWait(batch, planned, plan, events, -1);
  if (n === STOPPED) return false;
  plan.clear();
  planned = 0;
  let woken = false;
  for (let i = 0, at = 0; i < n; i++, at += EVENT_STRIDE) {
    const kind = events[at + EventField.KIND] ?? 0;
    if (kind === IoEvent.WOKEN) {
      woken = true;
      continue;
    }
    const index = events[at + EventField.QUEUE] ?? 0;
    const s = served[index];
    if (s === undefined) throw new Error(`I/O loop names queue ${index}, which nobody serves`);
    dispatch(kind, s, index, at);
  }
  // After the events: a queue that is added may get the index of one whose end is among them.
  if (woken) receiveAll();
  if (outbox.length > 0) {
    port.postMessage({ type: 'commands', commands: outbox } satisfies FromWorker, transfers);
    outbox = [];
    transfers = [];
  }
  if (quiesces.length > 0)
    quiesces = quiesces.filter(({ request, mark }) => {
      if (!loop.poolPassed(mark)) return true;
      say({ type: 'done', request });
      return false;
    });
  return true;
}

say({ type: 'ready' });
while (round());
loop.close();
port.close();
