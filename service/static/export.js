/** Answers as a file, made in the page: nothing is sent for it. */

const COLUMNS = {
  file: ({ name }) => name,
  label: ({ said }) => said?.label,
  probability: ({ said }) => said?.probability,
  standing: ({ said }) => said?.standing,
  network: ({ said }) => said?.network?.label,
  network_probability: ({ said }) => said?.network?.probability,
  cache: ({ said }) => said?.cache?.label,
  cache_probability: ({ said }) => said?.cache?.probability,
  novelty: ({ said }) => said?.novelty,
  is_novel: ({ said }) => said?.isNovel,
  credibility: ({ said }) => said?.credibility,
  taught: ({ taught }) => taught?.label,
  problem: ({ problem }) => problem?.detail,
  generation: ({ said }) => said?.generation,
};

const rows = (items) => items.map((item) => Object.fromEntries(
  Object.entries(COLUMNS).map(([name, of]) => [name, of(item) ?? null])));

export const asJson = (items) => `${JSON.stringify(rows(items), null, 1)}\n`;

function field(value) {
  if (value === null) return "";
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** RFC 4180, in UTF-8. */
export const asCsv = (items) => [Object.keys(COLUMNS), ...rows(items).map(Object.values)]
  .map((row) => `${row.map(field).join(",")}\r\n`).join("");

/** Have the browser keep a text as a file. */
export function download(text, name, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
