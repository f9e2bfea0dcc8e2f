/**
 * containerd's Snapshots service, version 1, on the wire: package `containerd.services.snapshots.v1`. The numbers are
 * containerd's; the description is a value, not a .proto file, so that nothing has to be found at run time.
 */
import type { GrpcObject, ServiceClientConstructor, ServiceDefinition } from '@grpc/grpc-js';
import { loadPackageDefinition } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';

/** `google.protobuf.Timestamp`. */
export interface Timestamp {
  readonly seconds: number;
  readonly nanos: number;
}

/** `Kind`, by number. */
export const Kind = { UNKNOWN: 0, VIEW: 1, ACTIVE: 2, COMMITTED: 3 } as const;

/** `Info`. */
export interface Info {
  readonly name: string;
  readonly parent: string;
  readonly kind: number;
  readonly createdAt: Timestamp | null;
  readonly updatedAt: Timestamp | null;
  readonly labels: Readonly<Record<string, string>>;
}

/** `PrepareSnapshotRequest` and `ViewSnapshotRequest`. */
export interface CreateRequest {
  readonly key: string;
  readonly parent: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** Every request that only names a snapshot. */
export interface KeyRequest {
  readonly key: string;
}

/** `CommitSnapshotRequest`. */
export interface CommitRequest {
  readonly name: string;
  readonly key: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly parent: string;
}

/** `UpdateSnapshotRequest`. */
export interface UpdateRequest {
  readonly info: Info | null;
  readonly updateMask: { readonly paths: readonly string[] } | null;
}

/** `ListSnapshotsRequest`. */
export interface ListRequest {
  readonly filters: readonly string[];
}

interface Field {
  readonly type: string;
  readonly id: number;
  readonly rule?: string;
  readonly keyType?: string;
}

const text = (id: number): Field => ({ type: 'string', id });
const texts = (id: number): Field => ({ type: 'string', id, rule: 'repeated' });
const labels = (id: number): Field => ({ type: 'string', id, keyType: 'string' });
const message = (type: string, id: number): Field => ({ type, id });
const several = (type: string, id: number): Field => ({ type, id, rule: 'repeated' });
const MOUNT = '.containerd.types.Mount';
const EMPTY = '.google.protobuf.Empty';
const TIME = '.google.protobuf.Timestamp';

const named = { fields: { snapshotter: text(1), key: text(2) } };
const creating = { fields: { snapshotter: text(1), key: text(2), parent: text(3), labels: labels(4) } };
const mounts = { fields: { mounts: several(MOUNT, 1) } };
const oneInfo = { fields: { info: message('Info', 1) } };

const description = {
  nested: {
    google: {
      nested: {
        protobuf: {
          nested: {
            Empty: { fields: {} },
            FieldMask: { fields: { paths: texts(1) } },
            Timestamp: { fields: { seconds: { type: 'int64', id: 1 }, nanos: { type: 'int32', id: 2 } } },
          },
        },
      },
    },
    containerd: {
      nested: {
        types: {
          nested: {
            Mount: { fields: { type: text(1), source: text(2), target: text(3), options: texts(4) } },
          },
        },
        services: {
          nested: {
            snapshots: {
              nested: {
                v1: {
                  nested: {
                    Kind: { values: Kind },
                    Info: {
                      fields: {
                        name: text(1),
                        parent: text(2),
                        kind: { type: 'Kind', id: 3 },
                        createdAt: message(TIME, 4),
                        updatedAt: message(TIME, 5),
                        labels: labels(6),
                      },
                    },
                    PrepareSnapshotRequest: creating,
                    PrepareSnapshotResponse: mounts,
                    ViewSnapshotRequest: creating,
                    ViewSnapshotResponse: mounts,
                    MountsRequest: named,
                    MountsResponse: mounts,
                    RemoveSnapshotRequest: named,
                    CommitSnapshotRequest: {
                      fields: {
                        snapshotter: text(1),
                        name: text(2),
                        key: text(3),
                        labels: labels(4),
                        parent: text(5),
                      },
                    },
                    StatSnapshotRequest: named,
                    StatSnapshotResponse: oneInfo,
                    UpdateSnapshotRequest: {
                      fields: {
                        snapshotter: text(1),
                        info: message('Info', 2),
                        updateMask: message('.google.protobuf.FieldMask', 3),
                      },
                    },
                    UpdateSnapshotResponse: oneInfo,
                    ListSnapshotsRequest: { fields: { snapshotter: text(1), filters: texts(2) } },
                    ListSnapshotsResponse: { fields: { info: several('Info', 1) } },
                    UsageRequest: named,
                    UsageResponse: {
                      fields: { size: { type: 'int64', id: 1 }, inodes: { type: 'int64', id: 2 } },
                    },
                    CleanupRequest: { fields: { snapshotter: text(1) } },
                    Snapshots: {
                      methods: {
                        Prepare: {
                          requestType: 'PrepareSnapshotRequest',
                          responseType: 'PrepareSnapshotResponse',
                        },
                        View: { requestType: 'ViewSnapshotRequest', responseType: 'ViewSnapshotResponse' },
                        Mounts: { requestType: 'MountsRequest', responseType: 'MountsResponse' },
                        Commit: { requestType: 'CommitSnapshotRequest', responseType: EMPTY },
                        Remove: { requestType: 'RemoveSnapshotRequest', responseType: EMPTY },
                        Stat: { requestType: 'StatSnapshotRequest', responseType: 'StatSnapshotResponse' },
                        Update: {
                          requestType: 'UpdateSnapshotRequest',
                          responseType: 'UpdateSnapshotResponse',
                        },
                        List: {
                          requestType: 'ListSnapshotsRequest',
                          responseType: 'ListSnapshotsResponse',
                          responseStream: true,
                        },
                        Usage: { requestType: 'UsageRequest', responseType: 'UsageResponse' },
                        Cleanup: { requestType: 'CleanupRequest', responseType: EMPTY },
                      },
                    },
                  },
                },
              },
            },
          },
        },
      },
    },
  },
};

const NAME = 'containerd.services.snapshots.v1.Snapshots';

function load(): ServiceClientConstructor {
  // protobufjs tells namespaces from services by their members, its types cannot.
  const json = description as Parameters<typeof fromJSON>[0];
  const definition = fromJSON(json, { longs: Number, defaults: true, arrays: true, objects: true });
  const root: GrpcObject = loadPackageDefinition(definition);
  let at: GrpcObject[string] | undefined = root;
  for (const step of NAME.split('.')) at = typeof at === 'object' ? (at as GrpcObject)[step] : undefined;
  if (typeof at !== 'function') throw new TypeError(`The description has no service "${NAME}"`);
  return at;
}

/** Constructor of a client; tests speak to the server through it. */
export const SnapshotsClient: ServiceClientConstructor = load();

/** The service, for a gRPC server. */
export const snapshotsService: ServiceDefinition = SnapshotsClient.service;
