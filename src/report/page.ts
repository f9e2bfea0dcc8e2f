/**
 * The report as one HTML page: no scripts, nothing from the network, which its content security policy says too; so
 * nothing that an image is named or contains can do more than be shown.
 */
import type { FileStretch } from './disk-files.js';
import { bytes, duration, share, shortDigest } from './format.js';
import { html, Html, type Content } from './html.js';
import { LAYER_COLOURS, mapView } from './map-view.js';
import { STYLE } from './style.js';
import { timelineView } from './timeline-view.js';
import type { FileReport, Report } from './report-data.js';

/** Rows shown at once, and those behind "more". */
const ROWS = 25;
const MORE_ROWS = 400;
const FIRST_READS = 40;

const POLICY = "default-src 'none'; style-src 'unsafe-inline'";

function card(name: string, value: string, note: Content): Html {
  return html`<div>
    <dt>${name}</dt>
    <dd>${value}</dd>
    <dd>${note}</dd>
  </div>`;
}

function cards({ totals, reads, device, layers }: Report): Html {
  const local = reads.filter((read) => read.local).length;
  return html`<dl class="cards">
    ${card('Read', bytes(totals.readBytes), `of ${bytes(totals.diskBytes)} in the image, ${share(totals.readBytes, totals.diskBytes)}`)}
    ${card('Fetched', bytes(totals.fetchedBytes), `of ${bytes(totals.storedBytes)} as stored, ${share(totals.fetchedBytes, totals.storedBytes)}`)}
    ${card('Fetched for each byte read', totals.amplification === undefined ? '–' : `${totals.amplification.toFixed(2)} ×`, `packed; ${bytes(totals.fetchedUnreadBytes)} of the disk fetched and not read`)}
    ${card('Requests', String(totals.requests), totals.failedRequests === 0 ? 'none failed' : `${totals.failedRequests} failed`)}
    ${card('Reads from local disk', share(local, reads.length), `of the first ${reads.length}; ${device.reads} in all`)}
    ${card('Opening', device.openMs === undefined ? '–' : duration(device.openMs), `${layers.length} layers`)}
  </dl>`;
}

function bar(part: number, whole: number, className: string): Html {
  const width = whole > 0 ? Math.min(100, (100 * part) / whole) : 0;
  return html`<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
    <rect class="back" width="100" height="10" />
    <rect class="${className}" width="${width.toFixed(1)}" height="10" />
  </svg>`;
}

function layerTable({ layers }: Report): Html {
  return html`<div class="scroll">
    <table id="layers">
      <thead>
        <tr>
          <th scope="col">Layer</th>
          <th scope="col">Digest</th>
          <th scope="col" class="n">Stored</th>
          <th scope="col">On local disk</th>
          <th scope="col" class="n">Fetched</th>
          <th scope="col" class="n">Requests</th>
          <th scope="col" class="n">Of the disk</th>
          <th scope="col">Read</th>
        </tr>
      </thead>
      <tbody>
        ${layers.map(
          (layer) =>
            html`<tr>
              <td>
                <svg class="key" viewBox="0 0 12 12" aria-hidden="true">
                  <rect class="l${layer.number % LAYER_COLOURS}" width="12" height="12" rx="2" /></svg
                >${layer.number}
              </td>
              <td class="code" title="${layer.digest || layer.place}">
                ${layer.digest === '' ? layer.place : shortDigest(layer.digest)}
              </td>
              <td class="n">${bytes(layer.size)}</td>
              <td>${bar(layer.presentBytes, layer.size, 'rb')}${share(layer.presentBytes, layer.size)}</td>
              <td class="n">${bytes(layer.fetchedBytes)}</td>
              <td class="n">${layer.requests}</td>
              <td class="n">${bytes(layer.diskBytes)}</td>
              <td>${bar(layer.readBytes, layer.diskBytes, 'rl')}${bytes(layer.readBytes)}</td>
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function fileRows(files: readonly FileReport[]): Html[] {
  return files.map(
    (file) =>
      html`<tr>
        <td class="path">${file.path}</td>
        <td class="n">${bytes(file.readBytes)}</td>
        <td class="n">${bytes(file.fetchedBytes)}</td>
        <td class="n">${bytes(file.size)}</td>
        <td class="n">${file.layer}</td>
        <td class="n">${file.firstRead === undefined ? '–' : duration(file.firstRead)}</td>
      </tr>`,
  );
}

const FILE_HEAD = html`<thead>
  <tr>
    <th scope="col">Path</th>
    <th scope="col" class="n">Read</th>
    <th scope="col" class="n">Fetched</th>
    <th scope="col" class="n">Size</th>
    <th scope="col" class="n">Layer</th>
    <th scope="col" class="n">First read</th>
  </tr>
</thead>`;

function filesView({ files }: Report): Html {
  if (files.unavailable !== undefined)
    return html`<p id="files-unavailable">Not available: ${files.unavailable}.</p>`;
  const shown = files.files.slice(0, ROWS);
  const more = files.files.slice(ROWS, MORE_ROWS);
  return html`<p class="lead">
      ${files.readCount} of ${files.count} files were read. ${bytes(files.otherReadBytes)} of what was read
      belongs to no file: directories, inodes and the like.
    </p>
    <div class="scroll">
      <table id="files">
        ${FILE_HEAD}
        <tbody>
          ${fileRows(shown)}
        </tbody>
      </table>
    </div>
    ${
      more.length === 0
        ? undefined
        : html`<details>
            <summary>${more.length} more files</summary>
            <div class="scroll">
              <table>
                ${FILE_HEAD}
                <tbody>
                  ${fileRows(more)}
                </tbody>
              </table>
            </div>
          </details>`
    }
    <p class="note">
      Read counts in whole pieces of the disk (4 KiB; more on disks above 64 GiB), so a small file that was
      read shows one piece. Fetched: bytes of the file whose packed form came from the registry, whether or
      not they were read.
    </p>`;
}

function requestsView(report: Report): Html {
  if (report.causes.length === 0)
    return html`<p class="note">Nothing was fetched: every byte was on local disk.</p>`;
  return html`<div class="scroll">
      <table id="requests">
        <thead>
          <tr>
            <th scope="col">For</th>
            <th scope="col" class="n">Requests</th>
            <th scope="col" class="n">Failed</th>
            <th scope="col" class="n">Fetched</th>
            <th scope="col" class="n">Median</th>
            <th scope="col" class="n">95 %</th>
            <th scope="col" class="n">Longest</th>
          </tr>
        </thead>
        <tbody>
          ${report.causes.map(
            (cause) =>
              html`<tr>
                <td>${cause.cause}</td>
                <td class="n">${cause.requests}</td>
                <td class="n">${cause.failed}</td>
                <td class="n">${bytes(cause.bytes)}</td>
                <td class="n">${duration(cause.median)}</td>
                <td class="n">${duration(cause.p95)}</td>
                <td class="n">${duration(cause.longest)}</td>
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${report.requestsOmitted === 0 ? undefined : html`<p class="note">Of the first ${report.requests.length} requests; ${report.requestsOmitted} later ones count in the totals only.</p>`}`;
}

function firstReads(report: Report): Html {
  const shown = report.reads.slice(0, FIRST_READS);
  return html`<details>
    <summary>The first ${shown.length} reads</summary>
    <div class="scroll">
      <table id="reads">
        <thead>
          <tr>
            <th scope="col" class="n">At</th>
            <th scope="col" class="n">Place</th>
            <th scope="col" class="n">Length</th>
            <th scope="col">Bytes were</th>
            <th scope="col">In</th>
          </tr>
        </thead>
        <tbody>
          ${shown.map(
            (read) =>
              html`<tr>
                <td class="n">${duration(read.at)}</td>
                <td class="n">${bytes(read.offset)}</td>
                <td class="n">${bytes(read.length)}</td>
                <td>${read.local ? 'local' : 'waited for'}</td>
                <td class="path">
                  ${read.path ?? (report.files.unavailable === undefined ? 'file system' : '–')}
                </td>
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </details>`;
}

/** The page's text. @param stretches which file is where, for the map */
export function reportPage(report: Report, stretches: readonly FileStretch[]): string {
  const { device } = report;
  const image = device.image ?? device.configPath;
  return html`${new Html('<!DOCTYPE html>')}
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta http-equiv="Content-Security-Policy" content="${POLICY}" />
        <meta name="referrer" content="no-referrer" />
        <title>${device.id}: what was read and fetched</title>
        <style>
          ${new Html(STYLE)}
        </style>
      </head>
      <body>
        <header>
          <h1>${device.id}</h1>
          <p class="sub">${image}</p>
          <p class="sub">
            ${device.devicePath ?? 'no device path'}, ${device.transport},
            ${bytes(device.size ?? 0)}${device.readOnly === true ? ', read-only' : ''} · attached
            ${device.since} · measured ${report.time}
          </p>
          ${report.imageUnavailable === undefined ? undefined : html`<p class="warn">Map and files are missing, because the image does not open: ${report.imageUnavailable}</p>`}
          ${report.writable ? html`<p class="warn">The device is writable. Map and layers show its read-only layers; reads of what was written count as reads of what lies below.</p>` : undefined}
          ${cards(report)}
        </header>
        <main>
          <section aria-labelledby="h-time">
            <h2 id="h-time">The start</h2>
            <p class="lead">
              Time counts from the first read or request, ${report.start}.
              ${report.readsTruncated ? `Shown are the first ${report.reads.length} reads; later ones are in the map and the totals.` : ''}
            </p>
            ${timelineView(report)}
          </section>
          <section aria-labelledby="h-map">
            <h2 id="h-map">Map of the disk</h2>
            ${mapView(report, stretches)}
          </section>
          <section aria-labelledby="h-layers">
            <h2 id="h-layers">Layers</h2>
            <p class="lead">
              Bottom to top. Stored and fetched are bytes as they are in the registry, packed; the last two
              columns count bytes of the disk.
            </p>
            ${layerTable(report)}
          </section>
          <section aria-labelledby="h-files">
            <h2 id="h-files">Files most read</h2>
            ${filesView(report)}
          </section>
          <section aria-labelledby="h-requests">
            <h2 id="h-requests">Registry requests</h2>
            ${requestsView(report)} ${firstReads(report)}
          </section>
        </main>
        <footer>
          overlaybd-ts ${report.version}, obd report. Nothing on this page comes from the network.
        </footer>
      </body>
    </html> `.text;
}
