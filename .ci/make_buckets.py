"""Makes the bucket `tensorpatch` on an S3 server and on an Azure emulator on this machine, which clients of objects cannot do."""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.error
import urllib.request

# The account and key that every Azure emulator has; they are public.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"


def put(url, headers):
    request = urllib.request.Request(url, data=b"", method="PUT", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def azure(port):
    date = email.utils.formatdate(usegmt=True)
    resource = f"/{ACCOUNT}/{ACCOUNT}/tensorpatch\nrestype:container"
    text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{VERSION}\n{resource}"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest())
    put(f"http://127.0.0.1:{port}/{ACCOUNT}/tensorpatch?restype=container", {
        "x-ms-date": date,
        "x-ms-version": VERSION,
        "Authorization": f"SharedKey {ACCOUNT}:{signature.decode()}",
        "Content-Type": "",
    })


if __name__ == "__main__":
    put(f"http://127.0.0.1:{sys.argv[1]}/tensorpatch", {})
    azure(sys.argv[2])
