/** The files by name. */
export declare function generate(): Promise<Record<string, string>>;
