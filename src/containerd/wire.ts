/**
 * The part of containerd's API, version 1, that a client of ours speaks: what is the same in containerd 1.6, 1.7 and 2.
 * The numbers are containerd's. As in the snapshotter, the description is a value, so that nothing has to be found at
 * run time; fields that we neither send nor read are left out (protobuf skips what it does not know).
 */
import type { MethodDefinition } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';

/** A field as `TYPE NUMBER`, `repeated TYPE NUMBER`, or `map NUMBER` (string to string). */
type FieldSpec = string;
type Fields = Readonly<Record<string, FieldSpec>>;
type Json = Readonly<Record<string, unknown>>;

function field(spec: FieldSpec): Json {
  const words = spec.split(' ');
  const id = Number(words.at(-1));
  if (words[0] === 'map') return { keyType: 'string', type: 'string', id };
  if (words[0] === 'repeated') return { rule: 'repeated', type: words[1], id };
  return { type: words[0], id };
}

function message(fields: Fields): Json {
  return { fields: Object.fromEntries(Object.entries(fields).map(([name, spec]) => [name, field(spec)])) };
}

function messages(all: Readonly<Record<string, Fields>>): Json {
  return Object.fromEntries(Object.entries(all).map(([name, fields]) => [name, message(fields)]));
}

/** A method as `REQUEST RESPONSE`, with `stream` before what is streamed. */
function service(methods: Readonly<Record<string, string>>): Json {
  return {
    methods: Object.fromEntries(
      Object.entries(methods).map(([name, spec]) => {
        const types = spec.replaceAll('stream ', '~').split(' ');
        const [request = '', response = ''] = types;
        return [
          name,
          {
            requestType: request.replace('~', ''),
            responseType: response.replace('~', ''),
            ...(request.startsWith('~') && { requestStream: true }),
            ...(response.startsWith('~') && { responseStream: true }),
          },
        ];
      }),
    ),
  };
}

const namespace = (nested: Json): Json => ({ nested });
const v1 = (nested: Json): Json => namespace({ v1: namespace(nested) });

const EMPTY = '.google.protobuf.Empty';
const MASK = '.google.protobuf.FieldMask';
const DESCRIPTOR = '.containerd.types.Descriptor';
const MOUNT = '.containerd.types.Mount';

const services = {
  version: v1({
    ...messages({ VersionResponse: { version: 'string 1', revision: 'string 2' } }),
    Version: service({ Version: `${EMPTY} VersionResponse` }),
  }),
  introspection: v1({
    ...messages({
      Plugin: { type: 'string 1', id: 'string 2', initErr: '.google.rpc.Status 7' },
      PluginsRequest: { filters: 'repeated string 1' },
      PluginsResponse: { plugins: 'repeated Plugin 1' },
    }),
    Introspection: service({ Plugins: 'PluginsRequest PluginsResponse' }),
  }),
  leases: v1({
    ...messages({
      Lease: { id: 'string 1', labels: 'map 3' },
      CreateRequest: { id: 'string 1', labels: 'map 3' },
      CreateResponse: { lease: 'Lease 1' },
      DeleteRequest: { id: 'string 1', sync: 'bool 2' },
      Resource: { id: 'string 1', type: 'string 2' },
      AddResourceRequest: { id: 'string 1', resource: 'Resource 2' },
    }),
    Leases: service({
      Create: 'CreateRequest CreateResponse',
      Delete: `DeleteRequest ${EMPTY}`,
      AddResource: `AddResourceRequest ${EMPTY}`,
    }),
  }),
  images: v1({
    ...messages({
      Image: { name: 'string 1', labels: 'map 2', target: `${DESCRIPTOR} 3` },
      GetImageRequest: { name: 'string 1' },
      GetImageResponse: { image: 'Image 1' },
      CreateImageRequest: { image: 'Image 1' },
      CreateImageResponse: { image: 'Image 1' },
      UpdateImageRequest: { image: 'Image 1', updateMask: `${MASK} 2` },
      UpdateImageResponse: { image: 'Image 1' },
    }),
    Images: service({
      Get: 'GetImageRequest GetImageResponse',
      Create: 'CreateImageRequest CreateImageResponse',
      Update: 'UpdateImageRequest UpdateImageResponse',
    }),
  }),
  content: v1({
    ...messages({
      Info: { digest: 'string 1', size: 'int64 2', labels: 'map 5' },
      InfoRequest: { digest: 'string 1' },
      InfoResponse: { info: 'Info 1' },
      UpdateRequest: { info: 'Info 1', updateMask: `${MASK} 2` },
      UpdateResponse: { info: 'Info 1' },
      ReadContentRequest: { digest: 'string 1', offset: 'int64 2', size: 'int64 3' },
      ReadContentResponse: { offset: 'int64 1', data: 'bytes 2' },
      WriteContentRequest: {
        action: 'WriteAction 1',
        ref: 'string 2',
        total: 'int64 3',
        expected: 'string 4',
        offset: 'int64 5',
        data: 'bytes 6',
        labels: 'map 7',
      },
      WriteContentResponse: { action: 'WriteAction 1', offset: 'int64 4', digest: 'string 6' },
      AbortRequest: { ref: 'string 1' },
    }),
    WriteAction: { values: { STAT: 0, WRITE: 1, COMMIT: 2 } },
    Content: service({
      Info: 'InfoRequest InfoResponse',
      Update: 'UpdateRequest UpdateResponse',
      Read: 'ReadContentRequest stream ReadContentResponse',
      Write: 'stream WriteContentRequest stream WriteContentResponse',
      Abort: `AbortRequest ${EMPTY}`,
    }),
  }),
  snapshots: v1({
    ...messages({
      Info: { name: 'string 1', parent: 'string 2', kind: 'int32 3', labels: 'map 6' },
      PrepareSnapshotRequest: {
        snapshotter: 'string 1',
        key: 'string 2',
        parent: 'string 3',
        labels: 'map 4',
      },
      PrepareSnapshotResponse: { mounts: `repeated ${MOUNT} 1` },
      CommitSnapshotRequest: { snapshotter: 'string 1', name: 'string 2', key: 'string 3', labels: 'map 4' },
      RemoveSnapshotRequest: { snapshotter: 'string 1', key: 'string 2' },
      StatSnapshotRequest: { snapshotter: 'string 1', key: 'string 2' },
      StatSnapshotResponse: { info: 'Info 1' },
    }),
    Snapshots: service({
      Prepare: 'PrepareSnapshotRequest PrepareSnapshotResponse',
      Commit: `CommitSnapshotRequest ${EMPTY}`,
      Remove: `RemoveSnapshotRequest ${EMPTY}`,
      Stat: 'StatSnapshotRequest StatSnapshotResponse',
    }),
  }),
  diff: v1({
    ...messages({
      ApplyRequest: { diff: `${DESCRIPTOR} 1`, mounts: `repeated ${MOUNT} 2` },
      ApplyResponse: { applied: `${DESCRIPTOR} 1` },
    }),
    Diff: service({ Apply: 'ApplyRequest ApplyResponse' }),
  }),
};

const description = namespace({
  google: namespace({
    protobuf: namespace(messages({ Empty: {}, FieldMask: { paths: 'repeated string 1' } })),
    rpc: namespace(messages({ Status: { code: 'int32 1', message: 'string 2' } })),
  }),
  containerd: namespace({
    types: namespace(
      messages({
        Descriptor: { mediaType: 'string 1', digest: 'string 2', size: 'int64 3', annotations: 'map 5' },
        Mount: { type: 'string 1', source: 'string 2', target: 'string 3', options: 'repeated string 4' },
      }),
    ),
    services: namespace(services),
  }),
});

// protobufjs tells namespaces from services by their members, its types cannot. No value of ours exceeds 2^53.
const definitions = fromJSON(description, {
  longs: Number,
  defaults: true,
  arrays: true,
  objects: true,
});

/** `images.v1.Images/Get`. @throws TypeError for one that the description lacks. */
export function methodOf(name: string): MethodDefinition<object, object> {
  const [serviceName = '', methodName = ''] = `containerd.services.${name}`.split('/');
  const methods = definitions[serviceName] as
    Readonly<Record<string, MethodDefinition<object, object>>> | undefined;
  const method = methods?.[methodName];
  if (method === undefined) throw new TypeError(`The description has no method "${name}"`);
  return method;
}
