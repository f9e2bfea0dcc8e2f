/** What a device read and fetched, resolved to layers and files, as one page. */
export { showName, walkFiles, type FileStretch } from './disk-files.js';
export { diskRuns, unpackRecords } from './disk-map.js';
export { gatherReport, type GatherOptions, type GatheredReport } from './gather.js';
export { escapeHtml, html, Html } from './html.js';
export { reportPage } from './page.js';
export type * from './report-data.js';
export { TimeAxis } from './time-axis.js';
