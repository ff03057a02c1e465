/** The client of a Rowcast service. */

export interface Options {
  /** The credentials of a request: the value of `Authorization`, such as `Token …`, or nothing. */
  credentials?: () => string | null | undefined | Promise<string | null | undefined>;
}
