/** What was dropped: `{file, name}` of each file, those in folders included, whose names begin with their folders'. */
export async function dropped({ items, files }) {
  // Both are gone when the event is over.
  const alone = [...files].map((file) => ({ file, name: file.name }));
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(({ isDirectory }) => isDirectory)) return alone;
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    found.push({ file, name: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // So many at a time as the browser likes.
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return;
    for (const one of some.sort((a, b) => a.name.localeCompare(b.name))) await walk(one, found);
  }
}
