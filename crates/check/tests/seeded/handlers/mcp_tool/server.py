from mcp.server.fastmcp import FastMCP

import ssh

mcp = FastMCP("fleet")


@mcp.tool()
async def uptime(host: str) -> str:
    """How long the host is up."""
    return ssh.run(host, "uptime")
