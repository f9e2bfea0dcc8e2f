import { toApiError, type DeviceInfo } from './api.js';

/** How far the background download of an image is. */
export interface DownloadState {
  readonly state: string;
  readonly bytes: number;
  /** Layers that were given up. */
  readonly layersFailed: number;
  /** Why the last attempt failed, until one of that layer succeeds. */
  readonly failure: unknown;
}

/** The same, as the API tells it. */
export function downloadInfo({
  state,
  bytes,
  layersFailed,
  failure,
}: DownloadState): NonNullable<DeviceInfo['download']> {
  return { state, bytes, layersFailed, ...(failure === undefined ? {} : { failure: toApiError(failure) }) };
}
