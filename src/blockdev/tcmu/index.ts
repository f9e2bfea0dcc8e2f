export { createTcmuDevice, removeTcmuDevice, findLun, type TcmuLun } from './configfs.js';
export { TcmuFrontEnd, TcmuAttachment } from './front-end.js';
export type { TcmuContext } from './device.js';
export { tcmuAvailable } from './kernel.js';
export { tcmuNames, parseUioName, DEFAULT_HBA, type TcmuNames, type UioName } from './names.js';
