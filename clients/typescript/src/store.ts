import type { OutboxEntry, OutboxStore } from "./types.js";

/** An outbox that ends with the page. */
export function memoryStore(): OutboxStore {
  const entries = new Map<number, OutboxEntry>();
  let last = 0;
  return {
    async add(entry) {
      const key = ++last;
      entries.set(key, { ...entry, key });
      return key;
    },
    async put(entry) {
      entries.set(entry.key, entry);
    },
    async remove(key) {
      entries.delete(key);
    },
    async all() {
      return [...entries.values()].sort((one, other) => one.key - other.key);
    },
    close() {},
  };
}

const promised = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** An outbox in IndexedDB. */
export function indexedDbStore(factory: IDBFactory, name: string): OutboxStore {
  let database: Promise<IDBDatabase> | undefined;

  async function open(): Promise<IDBDatabase> {
    const request = factory.open(name, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("outbox", { keyPath: "key", autoIncrement: true });
      request.result.createObjectStore("lease");
    };
    const opened = await promised(request);
    const gone = () => {
      database = undefined;
    };
    opened.onclose = gone;
    opened.onversionchange = () => {
      gone();
      opened.close();
    };
    return opened;
  }

  // Resolves once the transaction is on disk, as far as the browser can tell.
  async function once<T>(
    table: string,
    mode: IDBTransactionMode,
    work: (table: IDBObjectStore) => Promise<T>,
  ): Promise<T> {
    database ??= open();
    const transaction = (await database).transaction(table, mode, { durability: "strict" });
    const ended = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("the transaction was aborted"));
    });
    const [result] = await Promise.all([work(transaction.objectStore(table)), ended]);
    return result;
  }

  // Browsers lose their connection to the database, as after a long time in the background: once more with a new one.
  async function run<T>(
    table: string,
    mode: IDBTransactionMode,
    work: (table: IDBObjectStore) => Promise<T>,
  ): Promise<T> {
    const before = database;
    try {
      return await once(table, mode, work);
    } catch {
      if (database === before) {
        before?.then((opened) => opened.close()).catch(() => {});
        database = undefined;
      }
      return once(table, mode, work);
    }
  }

  return {
    add: (entry) => run("outbox", "readwrite", async (table) => Number(await promised(table.add(entry)))),
    put: (entry) => run("outbox", "readwrite", async (table) => void (await promised(table.put(entry)))),
    remove: (key) => run("outbox", "readwrite", async (table) => void (await promised(table.delete(key)))),
    all: () => run("outbox", "readonly", (table) => promised<OutboxEntry[]>(table.getAll())),
    lease: (owner, now, until) =>
      run("lease", "readwrite", async (table) => {
        const held: { owner: string; until: number } | undefined = await promised(table.get("sender"));
        if (held && held.owner !== owner && held.until > now) return false;
        await promised(table.put({ owner, until }, "sender"));
        return true;
      }),
    close() {
      database?.then((opened) => opened.close()).catch(() => {});
      database = undefined;
    },
  };
}
