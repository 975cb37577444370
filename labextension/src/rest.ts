/** The server's REST interface. Nothing else in here makes a request. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import { ApiError, IApi, Selection } from './model/api';
import {
  array,
  IExplanation,
  IPage,
  IPlan,
  IProfile,
  IProposal,
  IState,
  object,
  readExplanation,
  readPage,
  readPlan,
  readProfile,
  readProposal,
  readState,
  text
} from './model/wire';

const MAX_INTERNED = 20_000;

export class RestApi implements IApi {
  constructor(private readonly _settings: ServerConnection.ISettings) {}

  async kernels(): Promise<IState[]> {
    return array(await this._request('GET', 'kernels')).map(readState);
  }

  async plan(kernelId: string): Promise<IPlan | null> {
    const state = await this._request('GET', `kernels/${part(kernelId)}`);
    return readPlan(object(state).plan);
  }

  async alerts(kernelId: string, after: number, limit: number): Promise<IPage> {
    const query = URLExt.objectToQueryString({ after, limit });
    const path = `kernels/${part(kernelId)}/alerts${query}`;
    return readPage(await this._request('GET', path), this._intern);
  }

  async explain(kernelId: string, seq: number): Promise<IExplanation> {
    const path = `kernels/${part(kernelId)}/alerts/${seq}/explanation`;
    return readExplanation(await this._request('GET', path));
  }

  async profiles(): Promise<IProfile[]> {
    return array(await this._request('GET', 'profiles'))
      .map(readProfile)
      .filter((profile): profile is IProfile => profile !== undefined);
  }

  async preview(kernelId: string, seqs: Selection): Promise<IProposal> {
    const body = { kernel_id: kernelId, seqs };
    const answer = readProposal(
      await this._request('POST', 'profiles/preview', body)
    );
    if (answer === null) {
      throw new ApiError(500, 'the server sent no proposal');
    }
    return answer;
  }

  async save(
    kernelId: string,
    seqs: Selection,
    name: string,
    title: string
  ): Promise<{ name: string; directory: string }> {
    const body = { kernel_id: kernelId, seqs, name, title };
    const answer = object(await this._request('POST', 'profiles', body));
    return { name: text(answer.name), directory: text(answer.directory) };
  }

  async restart(
    kernelId: string,
    profile: string | null,
    record: boolean
  ): Promise<IState> {
    const path = `kernels/${part(kernelId)}/restart`;
    return readState(await this._request('POST', path, { profile, record }));
  }

  async signedIn(): Promise<boolean> {
    const url = URLExt.join(this._settings.baseUrl, 'api/me');
    const answer = await ServerConnection.makeRequest(url, {}, this._settings);
    return answer.ok;
  }

  private async _request(
    method: string,
    path: string,
    body?: unknown
  ): Promise<unknown> {
    const url = URLExt.join(this._settings.baseUrl, 'modelarmor/api', path);
    const init: RequestInit = { method };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
    }
    let answer: Response;
    try {
      answer = await ServerConnection.makeRequest(url, init, this._settings);
    } catch (error) {
      throw new ApiError(0, error instanceof Error ? error.message : '');
    }
    // an expired session may be answered by the page to log in on, with 200
    const isJson = answer.headers.get('content-type')?.includes('json');
    if (answer.ok && !isJson && answer.status !== 204) {
      throw new ApiError(401, 'the server asks to log in');
    }
    const content = answer.status === 204 ? null : await json(answer);
    if (!answer.ok) {
      const message = text(object(content).message, 2000);
      throw new ApiError(answer.status, message || `HTTP ${answer.status}`);
    }
    return content;
  }

  /** One string for all that are equal: paths and messages repeat in a flood. */
  private readonly _intern = (value: string): string => {
    const known = this._interned.get(value);
    if (known !== undefined) {
      return known;
    }
    if (this._interned.size >= MAX_INTERNED) {
      this._interned.clear();
    }
    this._interned.set(value, value);
    return value;
  };

  private readonly _interned = new Map<string, string>();
}

function part(value: string): string {
  return encodeURIComponent(value);
}

async function json(answer: Response): Promise<unknown> {
  try {
    return await answer.json();
  } catch {
    return null;
  }
}
